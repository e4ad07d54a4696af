# SPDX-License-Identifier: Apache-2.0
"""A backbone's blocks in order, each with what is computed before it: how options reach them.

A backbone with stages has a method ``block_steps`` that returns these, and an attribute
``use_act_checkpoint``. A plain ViT, Detectron2's too, has ``patch_embed`` and ``blocks`` instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class BlockStep:
    """One block.

    Attributes:
        block: maps tokens to tokens of the same shape.
        before: what else is used after the block before it: embeddings, positions, norms.
    """

    block: nn.Module
    before: Sequence[nn.Module | nn.Parameter] = ()

# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs of compiled blocks: a block's kernels are launched as one, once they were recorded.

For few images per GPU, where Python launches kernels more slowly than they run. Blocks are the
static part of a detector: one size of map. Neck, proposals and heads, whose sizes change, stay as
they are. torch's compiler records and replays; what is here says when, and when not.

Source: torch's "CUDAGraph Trees"; per block as in DINOv3, arXiv 2508.10104 (its released code).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.recompute import Recompute

# For `torch.compile`.
GRAPH_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"triton.cudagraphs": True}


def require_cuda_graphs(
    device: torch.device, *, compiled: bool, recompute: Recompute, accumulate: int = 1
) -> None:
    """Refuse ``train.cuda_graphs`` where it cannot work.

    Args:
        device: of the model.
        compiled: whether blocks are compiled (``train.compile``).
        recompute: ``train.activation_checkpointing``.
        accumulate: ``train.accumulate``.

    Raises:
        RecipeError: no CUDA, no compiled blocks, blocks that are computed again, or gradients that
            are kept from batch to batch.
    """
    if device.type != "cuda":
        raise RecipeError(
            f"train.cuda_graphs: expected a CUDA device, got {device.type}; set "
            "train.cuda_graphs=false"
        )
    if not compiled:
        raise RecipeError(
            "train.cuda_graphs: it is the compiled blocks that are recorded; set train.compile=true"
        )
    if recompute is True:
        raise RecipeError(
            "train.cuda_graphs: a block that is computed again in the backward pass would "
            "overwrite what its graph keeps; set train.activation_checkpointing to selective or "
            "false"
        )
    if accumulate > 1:
        raise RecipeError(
            f"train.cuda_graphs: expected train.accumulate=1, got {accumulate}; a graph writes "
            "gradients where it wrote those of the batch before, which are still needed. Set "
            "train.cuda_graphs=false, or train.accumulate=1 with more images per loader batch"
        )


def mark_steps(backbone: nn.Module) -> None:
    """Tell torch at every forward pass of a backbone that results of the last are not used anymore.

    By itself it would take each compiled block for a step of its own.

    Args:
        backbone: whose blocks are recorded.
    """
    backbone.register_forward_pre_hook(_mark_step)


def _mark_step(_backbone: nn.Module, _inputs: tuple[Any, ...]) -> None:
    torch.compiler.cudagraph_mark_step_begin()

# SPDX-License-Identifier: Apache-2.0
"""The registry of proposal generators, and the one that a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.by_name import part_by_name
from detectron2.utils.registry import Registry
from torch import nn

__all__ = ["PROPOSAL_GENERATOR_REGISTRY", "build_proposal_generator"]

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = """Proposal generators by name: ``obj(cfg, input_shape)``."""

# The name for inputs that carry their proposals.
_NONE = "PrecomputedProposals"


def build_proposal_generator(cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> nn.Module | None:
    """Build the generator ``MODEL.PROPOSAL_GENERATOR.NAME``.

    Args:
        cfg: the yacs configuration.
        input_shape: shapes of the backbone's maps, by name.

    Returns:
        None for ``PrecomputedProposals``.

    Raises:
        KeyError: no generator has the name.
    """
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if name == _NONE:
        return None
    build = part_by_name(PROPOSAL_GENERATOR_REGISTRY, name, "MODEL.PROPOSAL_GENERATOR.NAME")
    return build(cfg, input_shape)

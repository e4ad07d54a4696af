# SPDX-License-Identifier: Apache-2.0
"""The registry of proposal generators."""

from __future__ import annotations

from detectron2.utils.registry import Registry

__all__ = ["PROPOSAL_GENERATOR_REGISTRY"]

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = """Proposal generators by name: ``obj(cfg, input_shape)``."""

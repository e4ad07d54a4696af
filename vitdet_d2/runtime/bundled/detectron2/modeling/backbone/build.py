# SPDX-License-Identifier: Apache-2.0
"""The registry of backbones."""

from __future__ import annotations

from detectron2.utils.registry import Registry

__all__ = ["BACKBONE_REGISTRY"]

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = """Backbones by name: ``obj(cfg, input_shape)`` gives a ``Backbone``."""

# SPDX-License-Identifier: Apache-2.0
"""The registry of backbones, and the one that a configuration names."""

from __future__ import annotations

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.by_name import part_by_name
from detectron2.utils.registry import Registry

__all__ = ["BACKBONE_REGISTRY", "build_backbone"]

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = """Backbones by name: ``obj(cfg, input_shape)`` gives a ``Backbone``."""


def build_backbone(cfg: Any, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build the backbone ``MODEL.BACKBONE.NAME``.

    Args:
        cfg: the yacs configuration.
        input_shape: channels of the images; as many as ``MODEL.PIXEL_MEAN`` has where left out.

    Raises:
        KeyError: no backbone has the name.
        TypeError: what has the name builds no ``Backbone``.
    """
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    name = cfg.MODEL.BACKBONE.NAME
    backbone = part_by_name(BACKBONE_REGISTRY, name, "MODEL.BACKBONE.NAME")(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise TypeError(f"{name} must build a Backbone, got {type(backbone).__name__}")
    return backbone

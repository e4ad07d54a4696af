# SPDX-License-Identifier: Apache-2.0
"""Feature extractors."""

from __future__ import annotations

from typing import Any

from detectron2.modeling.backbone import vit
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.backbone.build import BACKBONE_REGISTRY, build_backbone
from detectron2.modeling.backbone.fpn import FPN

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "BACKBONE_REGISTRY",
    "FPN",
    "Backbone",
    "SimpleFeaturePyramid",  # noqa: F822  (lazy)
    "ViT",  # noqa: F822  (lazy)
    "build_backbone",
    "get_vit_lr_decay_rate",  # noqa: F822  (lazy)
]

_absent = absent_attribute(__name__)


def __getattr__(name: str) -> Any:
    return getattr(vit, name) if name in vit.__all__ else _absent(name)

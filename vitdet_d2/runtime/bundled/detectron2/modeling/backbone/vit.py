# SPDX-License-Identifier: Apache-2.0
"""Detectron2's names of the plain ViT backbone, which is ours.

One of the few places of the bundled runtime that import upwards, and only when a name is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["SimpleFeaturePyramid", "ViT", "get_vit_lr_decay_rate"]  # noqa: F822  (lazy)

_HOMES = {
    "SimpleFeaturePyramid": "vitdet_d2.necks.simple_feature_pyramid",
    "ViT": "vitdet_d2.backbones.vit",
    "get_vit_lr_decay_rate": "vitdet_d2.solver.layer_decay",
}

_absent = absent_attribute(__name__)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        return _absent(name)
    return getattr(import_module(_HOMES[name]), name)

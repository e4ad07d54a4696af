# SPDX-License-Identifier: Apache-2.0
"""Data sets in COCO's and LVIS's formats, and both themselves, under Detectron2's names."""

from __future__ import annotations

from typing import Any

from detectron2.data.datasets import builtin as _builtin
from detectron2.data.datasets import lvis
from detectron2.data.datasets.coco import (
    convert_to_coco_json,
    load_coco_json,
    register_coco_instances,
)

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "convert_to_coco_json",
    "get_lvis_instances_meta",  # noqa: F822  (lazy)
    "load_coco_json",
    "load_lvis_json",  # noqa: F822  (lazy)
    "register_coco_instances",
    "register_lvis_instances",  # noqa: F822  (lazy)
]

_absent = absent_attribute(__name__)


def __getattr__(name: str) -> Any:
    if name in lvis.__all__:
        return getattr(lvis, name)
    return _absent(name)


# Recipes expect these names to be there after an import; nothing is read before one is used.
_builtin.register_from_environment()

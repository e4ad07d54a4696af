# SPDX-License-Identifier: Apache-2.0
"""Data sets in COCO's format, and COCO itself, registered under Detectron2's names."""

from __future__ import annotations

from detectron2.data.datasets import builtin as _builtin
from detectron2.data.datasets.coco import (
    convert_to_coco_json,
    load_coco_json,
    register_coco_instances,
)

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["convert_to_coco_json", "load_coco_json", "register_coco_instances"]

__getattr__ = absent_attribute(__name__)

# Recipes expect COCO's names to be there after an import; nothing is read before one is used.
_builtin.register_from_environment()

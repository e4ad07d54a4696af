# SPDX-License-Identifier: Apache-2.0
"""COCO under the names that recipes use, below ``$DETECTRON2_DATASETS`` (else ``./datasets``)."""

from __future__ import annotations

import os

from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.coco import register_coco_instances

# name: (folder of images, annotation file), both below <root>/coco
_COCO_SPLITS = {
    "coco_2014_train": ("train2014", "instances_train2014.json"),
    "coco_2014_val": ("val2014", "instances_val2014.json"),
    "coco_2014_minival": ("val2014", "instances_minival2014.json"),
    "coco_2014_valminusminival": ("val2014", "instances_valminusminival2014.json"),
    "coco_2017_train": ("train2017", "instances_train2017.json"),
    "coco_2017_val": ("val2017", "instances_val2017.json"),
    "coco_2017_test": ("test2017", "image_info_test2017.json"),
    "coco_2017_test-dev": ("test2017", "image_info_test-dev2017.json"),
    "coco_2017_val_100": ("val2017", "instances_val2017_100.json"),
}


def register_all_coco(root: str) -> None:
    """Register COCO's splits; nothing is read before a split is used.

    Args:
        root: the folder that holds ``coco/``.
    """
    for name, (images, json_file) in _COCO_SPLITS.items():
        register_coco_instances(
            name,
            _get_builtin_metadata("coco"),
            os.path.join(root, "coco", "annotations", json_file),
            os.path.join(root, "coco", images),
        )


def register_from_environment() -> None:
    """Register everything below the folder that the environment names."""
    register_all_coco(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))

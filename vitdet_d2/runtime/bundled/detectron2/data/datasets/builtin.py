# SPDX-License-Identifier: Apache-2.0
"""COCO and LVIS under Detectron2's names, below ``$DETECTRON2_DATASETS`` (else ``./datasets``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
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
# name: annotation file below <root>; the images of all are COCO's, below <root>/coco
_LVIS_SPLITS = {
    "lvis_v1_train": "lvis/lvis_v1_train.json",
    "lvis_v1_val": "lvis/lvis_v1_val.json",
    "lvis_v1_test_dev": "lvis/lvis_v1_image_info_test_dev.json",
    "lvis_v1_test_challenge": "lvis/lvis_v1_image_info_test_challenge.json",
    "lvis_v0.5_train": "lvis/lvis_v0.5_train.json",
    "lvis_v0.5_val": "lvis/lvis_v0.5_val.json",
    "lvis_v0.5_val_rand_100": "lvis/lvis_v0.5_val_rand_100.json",
    "lvis_v0.5_test": "lvis/lvis_v0.5_image_info_test.json",
    "lvis_v0.5_train_cocofied": "lvis/lvis_v0.5_train_cocofied.json",
    "lvis_v0.5_val_cocofied": "lvis/lvis_v0.5_val_cocofied.json",
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


def register_all_lvis(root: str) -> None:
    """Register LVIS's splits; classes are known once a split is used, from its file.

    Args:
        root: the folder that holds ``lvis/`` and ``coco/``.
    """
    image_root = os.path.join(root, "coco", "")
    for name, json_file in _LVIS_SPLITS.items():
        path = os.path.join(root, json_file)
        DatasetCatalog.register(name, partial(_load_lvis, path, image_root, name))
        MetadataCatalog.get(name).set(json_file=path, image_root=image_root, evaluator_type="lvis")


def _load_lvis(json_file: str, image_root: str, name: str) -> list[dict[str, Any]]:
    # Not before it is used: the loader stands on the catalogues that are being filled here.
    from detectron2.data.datasets import lvis

    load: Callable[..., list[dict[str, Any]]] = lvis.load_lvis_json
    return load(json_file, image_root, name)


def register_from_environment() -> None:
    """Register everything below the folder that the environment names."""
    root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    register_all_coco(root)
    register_all_lvis(root)

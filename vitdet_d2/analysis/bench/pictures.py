# SPDX-License-Identifier: Apache-2.0
"""A data set in COCO's layout: the user's own, or one that is made up, of COCO's dimensions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image

from vitdet_d2.errors import DataError

NUM_CLASSES = 80
_SIZE = (480, 640)  # of most images of COCO
_NUM_IMAGES = 16
_NUM_OBJECTS = 7  # COCO's mean
_CORNERS = 28  # of a polygon, about COCO's mean
_QUALITY = 95  # of JPEG


def records(folder: Path, data: str | None) -> list[dict[str, Any]]:
    """Return records of images with objects, as Detectron2's mappers take them.

    Args:
        folder: where made-up images go, if they are not there yet.
        data: folder with ``annotations/instances_train2017.json`` and ``train2017``, or the same
            of ``val2017``; None: made up.

    Raises:
        DataError: the folder has none of them.
    """
    if data is None:
        document, images = _made_up(folder), folder
    else:
        document, images = _own(Path(data))
    names = {category["id"]: i for i, category in enumerate(document["categories"])}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in document["annotations"]:
        if not annotation.get("iscrowd", 0):
            by_image.setdefault(annotation["image_id"], []).append(
                {
                    "bbox": annotation["bbox"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": names[annotation["category_id"]],
                    "segmentation": annotation["segmentation"],
                    "iscrowd": 0,
                }
            )
    return [
        {
            "file_name": str(images / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "annotations": by_image[image["id"]],
        }
        for image in document["images"]
        if image["id"] in by_image
    ]


def _own(folder: Path) -> tuple[dict[str, Any], Path]:
    for split in ("train2017", "val2017"):
        path = folder / f"annotations/instances_{split}.json"
        if path.is_file() and (folder / split).is_dir():
            return json.loads(path.read_text(encoding="utf-8")), folder / split
    raise DataError(
        f"--data {folder}: expected annotations/instances_train2017.json beside train2017/ (or "
        "both of val2017), as COCO is laid out"
    )


def _made_up(folder: Path) -> dict[str, Any]:
    """Write images and return their annotations; the same ones at every call."""
    random = np.random.RandomState(0)
    H, W = _SIZE
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, _NUM_IMAGES + 1):
        name = f"{number:04d}.jpg"
        # Waves with some noise: as large as a photograph, once compressed.
        y, x = np.mgrid[0:H, 0:W]
        waves = [np.sin(x / a + y / b) for a, b in random.uniform(8, 60, (3, 2))]
        noise = random.normal(0, 12, (H, W, 3))
        pixels = np.clip(np.stack(waves, axis=-1) * 70 + 128 + noise, 0, 255).astype(np.uint8)
        if not (folder / name).is_file():
            Image.fromarray(pixels).save(folder / name, quality=_QUALITY)
        images.append({"id": number, "file_name": name, "height": H, "width": W})
        annotations += _objects(number, len(annotations), random)
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(NUM_CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _objects(image: int, first: int, random: np.random.RandomState) -> list[dict[str, Any]]:
    H, W = _SIZE
    turn = np.arange(_CORNERS) * (2 * math.pi / _CORNERS)
    found = []
    for number in range(_NUM_OBJECTS):
        w, h = random.uniform(0.05, 0.5, 2) * (W, H)
        x, y = random.uniform(0, 1, 2) * (W - w, H - h)
        radius = random.uniform(0.7, 1.0, _CORNERS)
        points = np.stack(
            [x + w / 2 * (1 + radius * np.cos(turn)), y + h / 2 * (1 + radius * np.sin(turn))], 1
        )
        found.append(
            {
                "id": first + number + 1,
                "image_id": image,
                "category_id": int(random.randint(NUM_CLASSES)) + 1,
                "bbox": [float(v) for v in (x, y, w, h)],
                "area": float(w * h),
                "iscrowd": 0,
                "segmentation": [[float(v) for v in points.flatten()]],
            }
        )
    return found

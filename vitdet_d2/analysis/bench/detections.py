# SPDX-License-Identifier: Apache-2.0
"""Made-up detections: what a detector hands to post-processing, and what an evaluator scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_tools

_PER_IMAGE = 100  # as many as COCO counts
_MASK_SIZE = 28


def raw_detections(size: int, device: str, seed: int) -> Instances:
    """Return detections of one image before post-processing, with mask probabilities.

    Args:
        size: side of the image that the model saw, in pixels.
        device: where they are.
        seed: decides the boxes.
    """
    generator = torch.Generator().manual_seed(seed)
    sides = (0.03 + 0.4 * torch.rand(_PER_IMAGE, 2, generator=generator) ** 2) * size
    corner = torch.rand(_PER_IMAGE, 2, generator=generator) * (size - sides)
    axis = torch.linspace(-1, 1, _MASK_SIZE)
    radius = (axis[:, None] ** 2 + axis[None] ** 2).sqrt()
    wobble = 0.2 * torch.rand(_PER_IMAGE, 1, _MASK_SIZE, _MASK_SIZE, generator=generator)
    found = Instances((size, size))
    found.pred_boxes = Boxes(torch.cat([corner, corner + sides], dim=1))
    found.scores = torch.rand(_PER_IMAGE, generator=generator).sort(descending=True).values
    found.pred_classes = torch.randint(0, 80, (_PER_IMAGE,), generator=generator)
    found.pred_masks = torch.sigmoid(8 * (0.9 - radius - wobble))
    return found.to(torch.device(device))


def results(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return detections in COCO's result format: objects found more or less well, and mistakes.

    Args:
        rows: records of images with polygons.
        seed: decides them.

    Returns:
        Per image ``{"image_id", "instances"}``, as `COCOEvaluator` keeps them.
    """
    random = np.random.RandomState(seed)
    found = []
    for record in rows:
        objects = [
            _result(record, record["annotations"][i % len(record["annotations"])], random)
            for i in range(_PER_IMAGE)
        ]
        found.append({"image_id": record["image_id"], "instances": objects})
    return found


def _result(
    record: dict[str, Any], annotation: dict[str, Any], random: np.random.RandomState
) -> dict[str, Any]:
    x, y, w, h = annotation["bbox"]
    dx, dy = random.normal(0, 0.12, 2) * (w, h)
    points = np.asarray(annotation["segmentation"][0]).reshape(-1, 2) + np.array([dx, dy])
    size = (record["height"], record["width"])
    (rle,) = mask_tools.frPyObjects([points.flatten().tolist()], *size)
    wrong = random.rand() < 0.3
    return {
        "image_id": record["image_id"],
        "category_id": int(random.randint(80)) if wrong else annotation["category_id"],
        "bbox": [float(x + dx), float(y + dy), float(w), float(h)],
        "score": float(random.rand()),
        "segmentation": {"size": list(size), "counts": rle["counts"].decode("ascii")},
    }

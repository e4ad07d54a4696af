# SPDX-License-Identifier: Apache-2.0
"""Small COCO data sets with detections that have errors of every kind.

Coordinates are quarters of a pixel and come from ``random.Random.random`` alone, whose numbers are
the same in every version of Python: the goldens depend on them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pycocotools.mask as mask_util

HEIGHT, WIDTH = 200, 240
Box = Sequence[float]


def dataset(
    objects: Sequence[tuple[int, int, Box, int]], num_classes: int, num_images: int
) -> dict[str, Any]:
    """Return a COCO dictionary of ``(image id, category id, XYWH, iscrowd)``, masks as boxes."""
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i + 1}.png", "height": HEIGHT, "width": WIDTH}
            for i in range(num_images)
        ],
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(num_classes)],
        "annotations": [
            {
                "id": number + 1,
                "image_id": image,
                "category_id": category,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": crowd,
                "segmentation": [polygon(box)],
            }
            for number, (image, category, box, crowd) in enumerate(objects)
        ],
    }


def polygon(box: Box) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def results(detections: Sequence[tuple[int, int, Box, float]]) -> list[dict[str, Any]]:
    """Return detections ``(image id, category id, XYWH, score)`` in COCO's result format."""
    return [
        {"image_id": image, "category_id": category, "bbox": list(box), "score": score}
        for image, category, box, score in detections
    ]


def random_case(
    seed: int, *, crowds: bool, num_classes: int = 4, num_images: int = 10
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a data set and detections; every class has objects, scores are all different."""
    draw = random.Random(seed).random
    objects: list[tuple[int, int, Box, int]] = []
    found: list[tuple[int, int, Box, float]] = []
    for image in range(1, num_images + 1):
        for number in range(2 + int(4 * draw())):
            category = 1 + (image + number) % num_classes
            box = [_quarter(130 * draw()), _quarter(100 * draw())]
            box += [_quarter(16 + 60 * draw()), _quarter(16 + 60 * draw())]
            objects.append((image, category, box, int(crowds and draw() < 0.15)))
            for _ in range(int(4 * draw())):
                far = (0.05, 0.2, 0.5)[int(3 * draw())]
                x, y = (box[i] + far * box[i + 2] * (2 * draw() - 1) for i in (0, 1))
                w, h = (box[i] * (1 + far * (draw() - 0.5)) for i in (2, 3))
                wrong = 1 + int(num_classes * draw())
                shape = [_quarter(max(v, 0)) for v in (x, y, w, h)]
                found.append((image, category if draw() < 0.7 else wrong, shape, draw()))
        for _ in range(int(3 * draw())):
            shape = [_quarter(v * draw()) for v in (180, 140)]
            found.append((image, 1 + int(num_classes * draw()), [*shape, 32.0, 28.0], draw()))
    return dataset(objects, num_classes, num_images), results(found)


def _quarter(value: float) -> float:
    return round(4 * value) / 4


def with_masks(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return detections with their boxes as masks."""
    masked = []
    for row in found:
        (code,) = mask_util.frPyObjects([polygon(row["bbox"])], HEIGHT, WIDTH)
        masked.append({**row, "segmentation": {**code, "counts": code["counts"].decode()}})
    return masked


def lvis_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return LVIS's toy without what tidecv treats otherwise.

    That is: equal scores, detections of classes without objects, and shapes without area.
    """
    from tests.evaluation import toy_lvis

    truth = toy_lvis.ground_truth(seed)
    truth["annotations"] = [row for row in truth["annotations"] if row["area"] > 0]
    present = {row["category_id"] for row in truth["annotations"]}
    found = [row for row in toy_lvis.results(truth, seed) if min(row["bbox"][2:]) > 0]
    found = [row for row in found if row["category_id"] in present]
    found = [row for row in found if mask_util.area(row["segmentation"])]
    return truth, [{**row, "score": row["score"] + 1e-7 * k} for k, row in enumerate(found)]

# SPDX-License-Identifier: Apache-2.0
"""A COCO data set of four images and detections for it, all from closed formulas.

Class ids have gaps and the third class never occurs; there are small, medium and large objects,
misses, false positives, wrong classes, equal scores, and one crowd.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

HEIGHT, WIDTH = 160, 200
CLASS_IDS = (3, 7, 9)
CLASS_NAMES = ("square", "bar", "ghost")
IMAGE_IDS = (11, 12, 15, 40)


def _objects(image: int) -> list[tuple[int, list[int], int]]:
    """Class index, XYXY box and crowd mark of every object of an image."""
    objects = []
    for k in range(3 + image % 2):
        x, y = 8 + 41 * k + 3 * image, 10 + 17 * ((image + 2 * k) % 4)
        side = (14, 40, 25, 30)[k]
        objects.append(((image + k) % 2, [x, y, x + side, y + side + 4 * k], 0))
    if image == 2:
        objects.append((0, [60, 30, 180, 150], 0))
    if image == 3:
        objects.append((1, [90, 90, 150, 150], 1))
    return objects


def ground_truth() -> dict[str, Any]:
    """Return the annotations as a COCO dictionary, with rectangles as polygons."""
    annotations = []
    for image, image_id in enumerate(IMAGE_IDS):
        for index, (x0, y0, x1, y1), crowd in _objects(image):
            box = [x0, y0, x1 - x0, y1 - y0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CLASS_IDS[index],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": crowd,
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                }
            )
    return {
        "images": [
            {"id": i, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.png"} for i in IMAGE_IDS
        ],
        "categories": [
            {"id": i, "name": name} for i, name in zip(CLASS_IDS, CLASS_NAMES, strict=True)
        ],
        "annotations": annotations,
    }


def detections(image: int, with_masks: bool = True) -> Instances:
    """Return the detections of the image with this index, 0 to 3."""
    boxes, scores, classes = [], [], []
    for k, (index, (x0, y0, x1, y1), _) in enumerate(_objects(image)):
        if (image * 2 + k) % 6 == 5:
            continue  # a miss
        dx, dy = (image * 3 + k * 5) % 7 - 3.25, (image + k * 2) % 5 - 1.75
        boxes.append([x0 + dx, y0 + dy, x1 + dx / 2, y1])
        scores.append(0.95 - 0.0625 * ((image * 5 + k * 3) % 11))
        classes.append(index if (image + k) % 5 != 4 else 1 - index)
    boxes += [[5.0 + 9 * image, 120.0, 45.5, 155.0], [150.0, 2.0, 190.0, 30.0 + image]]
    scores += [0.5, 0.3 + 0.125 * image]
    classes += [image % 3, 1]
    found = Instances((HEIGHT, WIDTH))
    found.pred_boxes = Boxes(torch.tensor(boxes))
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.tensor(classes)
    if with_masks:
        found.pred_masks = torch.stack([_rectangle(box) for box in boxes])
    return found


def _rectangle(box: list[float]) -> torch.Tensor:
    """Draw a box as a mask that lacks its lowest and rightmost eighth."""
    x0, y0, x1, y1 = box
    ys = torch.arange(HEIGHT)[:, None] + 0.5
    xs = torch.arange(WIDTH)[None, :] + 0.5
    x1, y1 = x1 - (x1 - x0) / 8, y1 - (y1 - y0) / 8
    return (xs >= x0) & (xs < x1) & (ys >= y0) & (ys < y1)


def register(name: str, folder: Path, dataset: dict[str, Any] | None = None) -> str:
    """Write a COCO dictionary to a file, and register its metadata under a name of its own."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(ground_truth() if dataset is None else dataset))
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=list(CLASS_NAMES),
        thing_dataset_id_to_contiguous_id={i: n for n, i in enumerate(CLASS_IDS)},
    )
    return name


def feed(evaluator: Any, images: tuple[int, ...] = (0, 1, 2, 3), with_masks: bool = True) -> None:
    """Reset an evaluator, and let it process the detections of some images."""
    evaluator.reset()
    for image in images:
        outputs = [{"instances": detections(image, with_masks)}]
        evaluator.process([{"image_id": IMAGE_IDS[image]}], outputs)

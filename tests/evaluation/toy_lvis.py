# SPDX-License-Identifier: Apache-2.0
"""Small random data in LVIS's format with detections of every kind that the rules tell apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from vitdet_d2.data.lvis import register_lvis_instances
from vitdet_d2.evaluation import LVISEvaluator

HEIGHT, WIDTH = 160, 220
# Ids with gaps and in no order, as in a file of one's own; the last two are in no annotation.
CATEGORIES = {7: "r", 3: "c", 12: "f", 5: "r", 40: "c", 9: "f"}


def ground_truth(seed: int, num_images: int = 6) -> dict[str, Any]:
    """Images with annotations of some categories, and others that were found absent or are open."""
    random = np.random.RandomState(seed)
    images, annotations = [], []
    ids = list(CATEGORIES)
    for number in range(num_images):
        image_id = 100 - 7 * number
        present = random.choice(ids[:4], random.randint(0, 4), replace=False)
        absent = [i for i in ids if i not in present and random.rand() < 0.5]
        images.append(
            {
                "id": image_id,
                "coco_url": f"http://images.cocodataset.org/val2017/{image_id:012d}.jpg",
                "height": HEIGHT,
                "width": WIDTH,
                "neg_category_ids": [int(i) for i in absent],
                "not_exhaustive_category_ids": [i for i in ids if random.rand() < 0.3],
            }
        )
        for category in present:
            for _ in range(random.randint(1, 4)):
                box = _box(random)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": int(category),
                        "bbox": box,
                        "segmentation": [_ellipse(box)],
                        "area": float(box[2] * box[3] * np.pi / 4),
                    }
                )
    if annotations:
        annotations[0]["area"] = 0.0  # counts nowhere
        annotations[-1]["area"] = 32.0**2  # small and medium
    categories = [
        {
            "id": number,
            "name": f"class_{number}",
            "synonyms": [f"class_{number}"],
            "frequency": frequency,
            "image_count": {"r": 4, "c": 60, "f": 900}[frequency],
        }
        for number, frequency in CATEGORIES.items()
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def _box(random: np.random.RandomState) -> list[float]:
    size = random.choice([12.0, 32.0, 60.0, 110.0])
    width, height = size * random.uniform(0.7, 1.3, 2)
    x, y = random.uniform(0, WIDTH - width), random.uniform(0, HEIGHT - height)
    return _quarters(np.array([x, y, width, height]))


def _quarters(box: np.ndarray) -> list[float]:
    """Round a box, so that its corners say the same as its size, also in float32."""
    return (np.round(4 * box) / 4).tolist()


def _ellipse(box: list[float]) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x = box[0] + box[2] / 2 * (1 + np.cos(angles))
    y = box[1] + box[3] / 2 * (1 + np.sin(angles))
    return np.stack([x, y], axis=1).ravel().round(2).tolist()


def results(dataset: dict[str, Any], seed: int, per_image: int = 14) -> list[dict[str, Any]]:
    """Detections in LVIS's result format: near, far, doubled, elsewhere, tied, empty."""
    random = np.random.RandomState(seed + 1000)
    found: list[dict[str, Any]] = []
    for image in dataset["images"][1:]:  # nothing is found in the first
        own = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
        for _ in range(random.randint(0, per_image)):
            if own and random.rand() < 0.7:
                truth = own[random.randint(len(own))]
                box = np.array(truth["bbox"]) + random.normal(0, 2, 4)
                category = truth["category_id"] if random.rand() < 0.8 else 9
            else:
                box, category = np.array(_box(random)), int(random.choice(list(CATEGORIES)))
            box[2:] = box[2:].clip(1)
            score = float(np.float32(random.randint(1, 12) / 12))  # with ties
            found.append(_result(image["id"], category, _quarters(box), score))
    if found:
        found.append({**found[-1], "bbox": [5.0, 5.0, 0.0, 9.0], "score": 1.0})  # without area
        empty = np.zeros((HEIGHT, WIDTH, 1), np.uint8, order="F")
        found.append({**found[-2], "segmentation": _text(mask_util.encode(empty)[0])})
    return found


def _result(image_id: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    shape = mask_util.merge(mask_util.frPyObjects([_ellipse(box)], HEIGHT, WIDTH))
    return {
        "image_id": image_id,
        "category_id": int(category),
        "bbox": box,
        "score": score,
        "segmentation": _text(shape),
    }


def _text(code: dict[str, Any]) -> dict[str, Any]:
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def register(name: str, folder: Path, dataset: dict[str, Any]) -> str:
    """Write and register a data set, in place of one of the same name."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(dataset))
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_lvis_instances(name, {}, path, folder)
    return name


def feed(evaluator: Any, dataset: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """Give an evaluator the detections as a model would."""
    evaluator.reset()
    for image in dataset["images"]:
        own = [result for result in found if result["image_id"] == image["id"]]
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances(own)}])


def instances(own: list[dict[str, Any]]) -> Instances:
    """Make a model's output of detections of one image; classes count from 0."""
    classes = sorted(CATEGORIES)
    output = Instances((HEIGHT, WIDTH))
    boxes = torch.tensor([r["bbox"] for r in own], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    output.pred_boxes = Boxes(boxes)
    output.scores = torch.tensor([r["score"] for r in own], dtype=torch.float64)
    output.pred_classes = torch.tensor([classes.index(r["category_id"]) for r in own]).long()
    masks = [mask_util.decode(r["segmentation"]) for r in own]
    output.pred_masks = torch.tensor(np.array(masks), dtype=torch.bool).reshape(-1, HEIGHT, WIDTH)
    return output


def evaluate_share(rank: int, folder: str, seed: int) -> None:
    """Evaluate every second image, as one of two processes, and write what comes back."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/.meet", rank=rank, world_size=2
    )
    dataset = ground_truth(seed)
    evaluator = LVISEvaluator(register(f"toy_lvis_rank_{rank}", Path(folder), dataset))
    own = {**dataset, "images": dataset["images"][rank::2]}
    feed(evaluator, own, results(dataset, seed))
    Path(folder, f"results_{rank}.json").write_text(json.dumps(evaluator.evaluate()))
    torch.distributed.destroy_process_group()

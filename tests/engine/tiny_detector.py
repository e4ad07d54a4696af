# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as a run of the quick start's recipe leaves it: two classes, random weights."""

from __future__ import annotations

import vitdet_d2  # isort: skip  (decides which Detectron2 this process uses)

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from vitdet_d2.engine.build import build_model
from vitdet_d2.engine.recipe_json import to_json
from vitdet_d2.engine.recipes import load_recipe

assert vitdet_d2.__version__, "the package under test has no version"

CLASSES = ("ant", "bee")
DATASET_IDS = (5, 9)
# Random weights give some thirty detections per picture above it, and many below.
OVERRIDES = (
    "model.roi_heads.num_classes=2",
    "model.roi_heads.mask_head.num_classes=2",
    "train.device=cpu",
    "data.image_size=64",
    "model.proposal_generator.post_nms_topk=[150, 30]",
)


def recipe(*overrides: str) -> DictConfig:
    return load_recipe("quickstart", [*OVERRIDES, *overrides])


def write_checkpoint(path: Path, *overrides: str, carries_recipe: bool = True) -> Path:
    cfg = recipe(*overrides)
    torch.manual_seed(1)
    model = build_model(cfg, torch.device("cpu"))
    # Wide enough that the classes differ, as after training.
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.2)
    saved = {"schema": 1, "thing_classes": list(CLASSES), "dataset_ids": list(DATASET_IDS)}
    if carries_recipe:
        saved["recipe"] = to_json(cfg)
    torch.save({"model": model.state_dict(), "vitdet_d2": saved}, path)
    return path


def write_run(folder: Path, *overrides: str) -> Path:
    """A run folder with one checkpoint and its manifest."""
    folder.mkdir()
    path = write_checkpoint(folder / "model_0000009.pth", *overrides)
    content = path.read_bytes()
    manifest = {
        "iteration": 9,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps(manifest))
    return folder


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Coloured rectangles on noise, RGB."""
    random = np.random.RandomState(seed)
    image = random.randint(0, 60, (height, width, 3), dtype=np.uint8)
    for _ in range(4):
        y, x = random.randint(0, height // 2), random.randint(0, width // 2)
        image[y : y + height // 3, x : x + width // 3] = random.randint(0, 255, 3)
    return image


def write_annotations(path: Path, files: Sequence[tuple[str, int, int]]) -> Path:
    """COCO JSON of pictures (name, height, width), one object each."""
    images = [
        {"id": i, "file_name": name, "height": height, "width": width}
        for i, (name, height, width) in enumerate(files, start=1)
    ]
    annotations = [
        {
            "id": image["id"],
            "image_id": image["id"],
            "category_id": DATASET_IDS[image["id"] % 2],
            "bbox": [2.0, 2.0, 8.0, 8.0],
            "area": 64.0,
            "iscrowd": 0,
            "segmentation": [[2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]],
        }
        for image in images
    ]
    rows = zip(DATASET_IDS, CLASSES, strict=True)
    categories = [{"id": number, "name": name} for number, name in rows]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path

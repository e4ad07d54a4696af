# SPDX-License-Identifier: Apache-2.0
"""A training of three steps from a yacs configuration, in whichever Detectron2 is active."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

NAME = "yacs_toys"

# Pairs for `merge_from_list`: everything small, on the CPU, the same in every run.
OVERRIDES = """
    MODEL.DEVICE cpu MODEL.WEIGHTS '' MODEL.VIT.SIZE '' MODEL.VIT.EMBED_DIM 24 MODEL.VIT.DEPTH 2
    MODEL.VIT.NUM_HEADS 3 MODEL.VIT.IMG_SIZE 64 MODEL.VIT.WINDOW_SIZE 2
    MODEL.VIT.CROSS_WINDOW_INDEXES [1] MODEL.VIT.PRETRAIN_IMG_SIZE 32 MODEL.VIT.DROP_PATH_RATE 0.0
    MODEL.SFP.OUT_CHANNELS 16 MODEL.SFP.SQUARE_PAD 64 MODEL.ROI_HEADS.NUM_CLASSES 2
    MODEL.ROI_BOX_HEAD.CONV_DIM 8 MODEL.ROI_BOX_HEAD.FC_DIM 8 MODEL.ROI_MASK_HEAD.CONV_DIM 8
    INPUT.MIN_SIZE_TRAIN (64,) INPUT.MAX_SIZE_TRAIN 64 INPUT.MIN_SIZE_TEST 64
    INPUT.MAX_SIZE_TEST 64 DATASETS.TRAIN ('yacs_toys',) DATASETS.TEST ('yacs_toys',)
    DATALOADER.NUM_WORKERS 0 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 3 SOLVER.STEPS (2,)
    SOLVER.AMP.ENABLED False TEST.EVAL_PERIOD 0 SEED 5
""".split()


def _write(folder: Path) -> Path:
    """Two pictures, each with a rectangle and a triangle."""
    images, annotations = [], []
    for number in range(2):
        pixels = np.full((64, 64, 3), 40 * number + 20, dtype=np.uint8)
        pixels[8:40, 10:50] = (200, 30, 90)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
        for category, polygon in (
            (1, [10, 8, 50, 8, 50, 40, 10, 40]),
            (2, [4, 44, 60, 44, 30, 62]),
        ):
            x, y = polygon[::2], polygon[1::2]
            box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
    categories = [{"id": 1, "name": "box"}, {"id": 2, "name": "roof"}]
    path = folder / "toys.json"
    data = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps({"info": {}, **data}))
    return path


@contextmanager
def registered_toys(folder: Path) -> Iterator[None]:
    """Write and register a data set of two pictures."""
    register_coco_instances(NAME, {}, str(_write(folder)), str(folder))
    try:
        yield
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def last_metrics(output_dir: Path) -> dict[str, float]:
    """Return the last line of ``metrics.json``."""
    return json.loads((output_dir / "metrics.json").read_text().splitlines()[-1])

# SPDX-License-Identifier: Apache-2.0
"""The axis ``loader``: files to training samples with large-scale jitter and masks, on one core."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper

from vitdet_d2.analysis.bench.case import Case, Evidence, Side, Subject
from vitdet_d2.analysis.bench.models import recipe_of
from vitdet_d2.analysis.bench.pictures import records

_SCALES = (0.1, 2.0)  # of the jitter, as in Detectron2's ViTDet recipes
_NUM_COMPARED = 8


def loader(case: Case, side: Side, folder: Path) -> Subject:
    """Prepare a side to load every image of the data once, at random scales that are always alike.

    Args:
        case: its image size and data; "exact" mode takes our mapper in its exact mode.
        side: whose mapper.
        folder: where made-up images go.
    """
    rows = records(folder, case.data)
    mapper = our_mapper(case) if side == "ours" else detectron2_mapper(case.image_size)

    def samples(count: int) -> list[Any]:
        found = []
        for number, record in enumerate(rows[:count]):
            # So that all sides draw the same scale and crop, whatever they draw beside it.
            _seed(number)
            found.append(mapper(record))
        return found

    def run() -> int:
        for number, record in enumerate(rows):
            _seed(number)
            mapper(record)
        return len(rows)

    return Subject(
        run=run,
        units=len(rows),
        evidence=lambda: _evidence(samples(_NUM_COMPARED), exact=case.mode == "exact"),
    )


def detectron2_mapper(size: int) -> Callable[[dict[str, Any]], Any]:
    """Return the mapper of Detectron2's ViTDet recipes.

    Args:
        size: side of the square that is cropped, in pixels.
    """
    jitter = T.ResizeScale(
        min_scale=_SCALES[0], max_scale=_SCALES[1], target_height=size, target_width=size
    )
    mapper: Callable[[dict[str, Any]], Any] = DatasetMapper(
        is_train=True,
        augmentations=[
            T.RandomFlip(horizontal=True),
            jitter,
            T.FixedSizeCrop(crop_size=(size, size), pad=False),
        ],
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,
    )
    return mapper


def our_mapper(case: Case) -> Callable[[dict[str, Any]], Any]:
    """Return the mapper of the case's recipe.

    Args:
        case: reads its image size and mode.
    """
    cfg = copy.deepcopy(recipe_of(case, "ours", f"data.exact={str(case.mode == 'exact').lower()}"))
    mapper: Callable[[dict[str, Any]], Any] = instantiate(cfg.dataloader.train.mapper)
    return mapper


def _seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def _evidence(samples: list[Any], *, exact: bool) -> Evidence:
    """Return what samples hold: to the bit in the exact mode, else roughly."""
    found: Evidence = {}
    for number, sample in enumerate(samples):
        image, instances = sample["image"], sample["instances"]
        found[f"exact classes {number}"] = str(instances.gt_classes.tolist())
        if exact:
            digest = hashlib.sha256(np.ascontiguousarray(image.numpy()).tobytes())
            found[f"exact image {number}"] = digest.hexdigest()
            found[f"exact boxes {number}"] = str(instances.gt_boxes.tensor.tolist())
        else:
            found[f"pixels {number}"] = image.float()
            found[f"boxes {number}"] = instances.gt_boxes.tensor
    return found

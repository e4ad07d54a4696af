# SPDX-License-Identifier: Apache-2.0
"""Detections of a COCO data set as arrays, in the order in which they are scored.

Shapes: N detections by category, then image, then best score first; I images and K categories in
the order of their ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray

from vitdet_d2.evaluation.coco_truth import CocoTruth, outside_of_ranges

Task = Literal["bbox", "segm"]
Array = NDArray[Any]
Row = Mapping[str, Any]

# pycocotools 2.0.11 counts the masks of a call in eight bits.
_MASKS_AT_ONCE = 255


@dataclass(frozen=True, kw_only=True)
class CocoDetections:
    """What is scored.

    Attributes:
        images: ``(N,)`` position of the image.
        categories: ``(N,)`` position of the category.
        scores: ``(N,)`` float64.
        ranks: ``(N,)`` how many of the same image and category have a better score.
        boxes: ``(N, 4)`` XYWH.
        outside: ``(A, N)`` bool, whether the area is outside of each range.
        masks: run-length codes; empty where boxes are compared.
    """

    images: Array
    categories: Array
    scores: Array
    ranks: Array
    boxes: Array
    outside: Array
    masks: Sequence[Row]


def arrange(
    results: Sequence[Row], truth: CocoTruth, task: Task, scored: Array, max_detections: int
) -> CocoDetections:
    """Take what counts out of results, in the order of scoring.

    Args:
        results: checked, with the data set's ids; those of equal score keep their order.
        truth: what they are compared with.
        task: masks need a ``segmentation`` in every result.
        scored: ``(I,)`` bool, the images that count.
        max_detections: best scores that count of each image and category.
    """
    ids = np.array([row["image_id"] for row in results], np.int64)
    images = np.searchsorted(truth.image_ids, ids)
    ids = np.array([row["category_id"] for row in results], np.int64)
    categories = np.searchsorted(truth.category_ids, ids)
    scores = np.array([row["score"] for row in results], np.float64)
    order = np.lexsort((-scores, images, categories))
    order = order[scored[images[order]]]
    ranks = _ranks(images[order], categories[order])
    order, ranks = order[ranks < max_detections], ranks[ranks < max_detections]
    masks = [results[i]["segmentation"] for i in order.tolist()] if task == "segm" else []
    if task == "segm":
        boxes = np.zeros((len(order), 4))
        areas = mask_areas(masks)
    else:
        boxes = np.array([row["bbox"] for row in results], np.float64).reshape(-1, 4)[order]
        areas = boxes[:, 2] * boxes[:, 3]
    return CocoDetections(
        images=images[order],
        categories=categories[order],
        scores=scores[order],
        ranks=ranks,
        boxes=boxes,
        outside=outside_of_ranges(areas),
        masks=masks,
    )


def mask_areas(masks: Sequence[Row]) -> Array:
    """Return how many pixels each mask has, ``(N,)``.

    Args:
        masks: run-length codes.
    """
    starts = range(0, len(masks), _MASKS_AT_ONCE)
    parts = [mask_util.area(list(masks[start : start + _MASKS_AT_ONCE])) for start in starts]
    return np.concatenate([np.zeros(0), *parts])


def _ranks(images: Array, categories: Array) -> Array:
    """Number the rows within each run of the same image and category."""
    if not len(images):
        return np.zeros(0, np.int64)
    is_new = np.ones(len(images), bool)
    is_new[1:] = (np.diff(images) != 0) | (np.diff(categories) != 0)
    starts = np.flatnonzero(is_new)
    return np.arange(len(images)) - starts[np.cumsum(is_new) - 1]

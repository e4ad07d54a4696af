# SPDX-License-Identifier: Apache-2.0
"""Average precision by COCO's rules, from arrays: pycocotools' numbers bit for bit, much faster.

Shapes: A = 4 ranges of area, T = 10 IoU thresholds, R = 101 recalls, K categories in the order of
their ids, M limits of detections per image and category.

Source: pycocotools 2.0.11, whose overlaps are called; matching and curves are ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import Params

from vitdet_d2.evaluation.coco_curves import CurveMaker
from vitdet_d2.evaluation.coco_detections import Task, arrange
from vitdet_d2.evaluation.coco_matching import match_in_step
from vitdet_d2.evaluation.coco_overlaps import find_overlaps
from vitdet_d2.evaluation.coco_truth import AREA_NAMES, AREA_RANGES, CocoTruth

Array = NDArray[Any]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True, kw_only=True)
class CocoScores:
    """What came of an evaluation, under the names of pycocotools' ``COCOeval``.

    Attributes:
        params: what was evaluated; lists of ids, thresholds, limits.
        eval: ``precision`` and ``scores`` ``(T, R, K, A, M)``, ``recall`` ``(T, K, A, M)``, -1
            where there is no annotation; ``counts`` and ``params``.
        stats: ``(12,)`` COCO's summary: AP, AP50, AP75, by size; AR at each of the last three
            limits, by size.
    """

    params: Params
    eval: Mapping[str, Any]
    stats: Array


def score_coco(
    truth: CocoTruth,
    results: Sequence[Mapping[str, Any]],
    task: Task,
    *,
    img_ids: Sequence[int] | None = None,
    max_detections: Sequence[int] = MAX_DETECTIONS,
) -> CocoScores:
    """Match detections with annotations, and accumulate precision over recall.

    Args:
        truth: the annotations.
        results: checked detections in COCO's result format, of this data set.
        task: what is compared; masks have been checked to be there.
        img_ids: the images to score; None takes all.
        max_detections: limits of detections per image and category, rising.
    """
    scored = np.ones(len(truth.image_ids), bool)
    if img_ids is not None:
        scored = np.isin(truth.image_ids, np.array(img_ids, np.int64))
    found = arrange(results, truth, task, scored, max_detections[-1])
    # COCO lets no threshold ask for more than nearly the whole.
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    overlaps = find_overlaps(truth, found, task, scored, float(thresholds[0]))
    groups = found.images * len(truth.category_ids) + found.categories
    matches = match_in_step(overlaps, groups, truth.ignored, truth.crowd, thresholds)
    maker = CurveMaker(found, matches, truth.ignored, _num_truths(truth, scored))
    curves = [
        maker.curves(area, limit)
        for area, limit in itertools.product(range(len(AREA_RANGES)), max_detections)
    ]
    columns = (len(AREA_RANGES), len(max_detections))
    precision = _in_columns([c.precision for c in curves], columns)
    recall = _in_columns([c.recall for c in curves], columns)
    scores = _in_columns([c.scores for c in curves], columns)
    params = _params(truth, task, scored, max_detections)
    arrays = {"precision": precision, "recall": recall, "scores": scores}
    outcome = {"params": params, "counts": list(precision.shape), **arrays}
    return CocoScores(params=params, eval=outcome, stats=summary(precision, recall))


def _num_truths(truth: CocoTruth, scored: Array) -> Array:
    """Count the annotations that could be found, ``(K, A)``."""
    counted = (~truth.ignored & scored[truth.images]).T
    counts = np.zeros((len(truth.category_ids), counted.shape[1]), np.int64)
    np.add.at(counts, truth.categories, counted)
    return counts


def _in_columns(parts: Sequence[Array], columns: tuple[int, int]) -> Array:
    """Make the range of area and the limit the last axes; without a copy, which takes longest."""
    return np.moveaxis(np.stack(parts).reshape(*columns, *parts[0].shape), (0, 1), (-2, -1))


def _params(truth: CocoTruth, task: Task, scored: Array, max_detections: Sequence[int]) -> Params:
    params = Params(iouType=task)
    params.imgIds = truth.image_ids[scored].tolist()
    params.catIds = truth.category_ids.tolist()
    params.maxDets = list(max_detections)
    return params


def summary(precision: Array, recall: Array) -> Array:
    """Return COCO's twelve averages; -1 where nothing is defined.

    Args:
        precision: ``(T, R, K, A, M)``.
        recall: ``(T, K, A, M)``.
    """
    areas = range(len(AREA_NAMES))
    at_50, at_75 = (np.flatnonzero(iou == IOU_THRESHOLDS) for iou in (0.5, 0.75))
    parts = [precision[..., 0, -1], precision[at_50][..., 0, -1], precision[at_75][..., 0, -1]]
    parts += [precision[..., area, -1] for area in areas[1:]]
    # Of fewer than three limits the first stands for those that are left out.
    last = recall.shape[-1] - 1
    parts += [recall[..., 0, max(0, last - back)] for back in (2, 1, 0)]
    parts += [recall[..., area, -1] for area in areas[1:]]
    return np.array([_mean(part) for part in parts])


def _mean(values: Array) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if len(defined) else -1.0

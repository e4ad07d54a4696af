# SPDX-License-Identifier: Apache-2.0
"""Which detections overlap which annotations of their category, by pycocotools' own arithmetic.

Shapes: N detections, G annotations, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray

from vitdet_d2.evaluation.coco_detections import CocoDetections, Task
from vitdet_d2.evaluation.coco_truth import CocoTruth

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """Pairs of one image and category that overlap enough for some threshold.

    Attributes:
        detections: ``(P,)``, ascending.
        truths: ``(P,)``, ascending for each detection.
        ious: ``(P,)``.
    """

    detections: Array
    truths: Array
    ious: Array


def find_overlaps(
    truth: CocoTruth, found: CocoDetections, task: Task, scored: Array, least: float
) -> Overlaps:
    """Compare detections with the annotations of their image and category.

    Args:
        truth: the annotations.
        found: the detections.
        task: what is compared.
        scored: ``(I,)`` bool, the images that count.
        least: overlap from which a pair is kept, above 0.
    """
    compare = _box_pairs if task == "bbox" else _mask_pairs
    parts = list(compare(truth, found, scored, least))
    detections = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
    truths = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in parts)])
    order = np.lexsort((truths, detections))
    ious = np.concatenate([np.zeros(0), *(part[2] for part in parts)])
    return Overlaps(detections=detections[order], truths=truths[order], ious=ious[order])


Pairs = tuple[Array, Array, Array]


def _box_pairs(
    truth: CocoTruth, found: CocoDetections, scored: Array, least: float
) -> Iterator[Pairs]:
    """Compare all boxes of an image at once: one call costs more than its many small overlaps."""
    for rows, truths in _groups(truth.images, found.images, scored[truth.images]):
        ious = mask_util.iou(found.boxes[rows], truth.boxes[truths], truth.crowd[truths])
        same = found.categories[rows, None] == truth.categories[truths]
        d, g = np.nonzero(same & (ious >= least))
        yield rows[d], truths[g], ious[d, g]


def _mask_pairs(
    truth: CocoTruth, found: CocoDetections, scored: Array, least: float
) -> Iterator[Pairs]:
    """Compare masks by image and category, because each overlap is work."""
    num_categories = len(truth.category_ids)
    keys = truth.images * num_categories + truth.categories
    found_keys = found.images * num_categories + found.categories
    for rows, truths in _groups(keys, found_keys, scored[truth.images]):
        given = [found.masks[row] for row in rows.tolist()]
        wanted = [truth.mask(number) for number in truths.tolist()]
        ious = mask_util.iou(given, wanted, truth.crowd[truths])
        d, g = np.nonzero(ious >= least)
        yield rows[d], truths[g], ious[d, g]


def _groups(keys: Array, found_keys: Array, chosen: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the detections and the chosen annotations of every key that both have."""
    order = np.argsort(found_keys, kind="stable")
    truths = np.flatnonzero(chosen)
    truths = truths[np.argsort(keys[truths], kind="stable")]
    values, starts = np.unique(keys[truths], return_index=True)
    ends = np.append(starts[1:], len(truths))
    first = np.searchsorted(found_keys[order], values, side="left")
    last = np.searchsorted(found_keys[order], values, side="right")
    for group in np.flatnonzero(last > first).tolist():
        yield order[first[group] : last[group]], truths[starts[group] : ends[group]]

# SPDX-License-Identifier: Apache-2.0
"""Precision over recall from matched detections, for all categories at once.

Only a right detection raises the recall, and between two of them the precision falls: the curve is
known from its right detections.

Shapes: A ranges of area, T IoU thresholds, R recalls, K categories, N detections by category, best
score first; Q right detections, by threshold, then as the detections.

Source: pycocotools' ``accumulate``; the same arrays, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdet_d2.evaluation.coco_detections import CocoDetections
from vitdet_d2.evaluation.coco_matching import Matches

Array = NDArray[Any]

RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Of one range of area and one number of detections; -1 where nothing can be found.

    Attributes:
        precision: ``(T, R, K)``, the best at this recall or a higher one.
        recall: ``(T, K)``, what is reached.
        scores: ``(T, R, K)``, of the detection that reaches a recall.
    """

    precision: Array
    recall: Array
    scores: Array


class CurveMaker:
    """Detections in the order of their scores."""

    def __init__(
        self, found: CocoDetections, matches: Matches, ignored: Array, num_truths: Array
    ) -> None:
        """Sort what was matched.

        Args:
            found: the detections.
            matches: their annotations.
            ignored: ``(A, G)`` annotations.
            num_truths: ``(K, A)`` annotations that count.
        """
        self._found = found
        self._matches = matches
        self._ignored = ignored
        self._num_truths = num_truths
        # Of equal scores the first image comes first, and in it the first detection.
        self._order = np.lexsort((-found.scores, found.categories))

    def curves(self, area: int, max_detections: int) -> Curves:
        """Accumulate the detections of a range of area.

        Args:
            area: which range.
            max_detections: best scores that count of each image and category.
        """
        found, matches = self._found, self._matches
        order = self._order[found.ranks[self._order] < max_detections]
        place = np.full(len(found.scores), -1)
        place[order] = np.arange(len(order))
        truths = matches.truths[:, area].T  # (T, C)
        hit = truths >= 0
        lost = hit & self._ignored[area][truths]
        judged = np.repeat(~found.outside[area][None], len(truths), axis=0)
        judged[:, matches.detections] = np.where(hit, ~lost, judged[:, matches.detections])
        threshold, candidate = np.nonzero(hit & ~lost)
        right = place[matches.detections[candidate]]
        threshold, right = threshold[right >= 0], right[right >= 0]
        by_score = np.lexsort((right, threshold))
        return self._accumulate(
            found.categories[order],
            found.scores[order],
            np.cumsum(judged.take(order, axis=1), axis=1, dtype=np.int32),
            threshold[by_score],
            right[by_score],
            self._num_truths[:, area],
        )

    @staticmethod
    def _accumulate(
        categories: Array,
        scores: Array,
        judged: Array,
        threshold: Array,
        right: Array,
        num_truths: Array,
    ) -> Curves:
        """Read precision and score at every recall off the right detections.

        Args:
            categories: ``(N,)``, ascending.
            scores: ``(N,)``.
            judged: ``(T, N)`` how many of the detections so far are right or wrong.
            threshold: ``(Q,)`` of the right detections.
            right: ``(Q,)`` their places.
            num_truths: ``(K,)``.
        """
        num_thresholds, num_categories = len(judged), len(num_truths)
        firsts = np.searchsorted(categories, np.arange(num_categories))
        before = np.concatenate([np.zeros((num_thresholds, 1), np.int32), judged], axis=1)
        curve = threshold * num_categories + categories[right]
        starts = np.searchsorted(curve, np.arange(num_thresholds * num_categories + 1))
        counts = np.diff(starts).reshape(num_thresholds, num_categories)
        number = np.arange(len(right)) - starts[curve] + 1
        so_far = judged[threshold, right] - before[threshold, firsts[categories[right]]]
        best = _best_to_come(number / (so_far + np.spacing(1.0)), curve)
        # Which right detection reaches a recall, and whether there are as many.
        needed = _least_numbers(num_truths)  # (K, R)
        reached = needed <= counts[:, :, None]  # (T, K, R)
        at = np.where(reached, starts[:-1].reshape(counts.shape)[:, :, None] + needed - 1, 0)
        shape = (num_thresholds, num_categories, len(RECALLS))
        precision, at_score = np.zeros(shape), np.zeros(shape)
        if len(right):
            precision[reached] = best[at[reached]]
            at_score[reached] = scores[right[at[reached]]]
        # A recall of nothing is reached by the very first detection, right or not.
        some = np.append(firsts[1:], len(categories)) > firsts
        at_score[:, some, 0] = scores[firsts[some]]
        recall = counts / np.maximum(num_truths, 1)
        absent = num_truths == 0
        precision[:, absent], at_score[:, absent], recall[:, absent] = -1, -1, -1
        return Curves(
            precision=precision.transpose(0, 2, 1),
            recall=recall,
            scores=at_score.transpose(0, 2, 1),
        )


def _least_numbers(num_truths: Array) -> Array:
    """Return how many right detections reach each recall, ``(K, R)``, at least 1."""
    totals = np.maximum(num_truths, 1)[:, None]
    numbers = np.maximum(np.floor(RECALLS * totals).astype(np.int64) - 1, 1)
    # The quotient decides, as it does where it is compared with each recall in turn.
    for _ in range(3):
        numbers += numbers / totals < RECALLS
    return numbers


def _best_to_come(values: Array, curve: Array) -> Array:
    """Return the running maximum from the end of every curve, ``(Q,)``.

    Args:
        values: ``(Q,)``.
        curve: ``(Q,)``, ascending.
    """
    if not len(values):
        return values
    # Whole numbers in the order of the values leave room for that of the curves beside them.
    levels, level = np.unique(values, return_inverse=True)
    offset = (curve[-1] - curve) * len(levels)
    return levels[np.maximum.accumulate((level + offset)[::-1])[::-1] - offset]

# SPDX-License-Identifier: Apache-2.0
"""Which annotation a detection is counted for: all images and categories in step.

The detections of an image and category take their annotations in turn, the best score first. Those
of different images do not meet, so that a round lets the next one of every image and category
choose, for all ranges of area and thresholds at once.

Shapes: A ranges of area, T thresholds, N detections, G annotations, P pairs that overlap, C
detections with at least one pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdet_d2.evaluation.coco_overlaps import Overlaps

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Matches:
    """What became of the detections that overlap anything.

    Attributes:
        detections: ``(C,)``, ascending.
        truths: ``(C, A, T)`` the annotation, or -1.
    """

    detections: Array
    truths: Array


def match_in_step(
    overlaps: Overlaps, groups: Array, ignored: Array, crowd: Array, thresholds: Array
) -> Matches:
    """Give each detection in turn the free annotation that it overlaps most.

    One that counts goes before any that is ignored; of equally good ones the last is taken; a
    crowd stays free.

    Args:
        overlaps: all that reach the lowest threshold.
        groups: ``(N,)`` number of the image and category, ascending or not, but without gaps
            between equal ones; within them the best score comes first.
        ignored: ``(A, G)``.
        crowd: ``(G,)``.
        thresholds: ``(T,)`` the least overlap that counts.

    Source: the matching of pycocotools, loop for loop.
    """
    detections, starts = np.unique(overlaps.detections, return_index=True)
    matched = np.full((len(detections), len(ignored), len(thresholds)), -1)
    if not len(detections):
        return Matches(detections=detections, truths=matched)
    candidates = _Candidates(overlaps, starts, ignored)
    free = np.ones((len(crowd), len(ignored), len(thresholds)), bool)
    for chosen in _rounds(groups[detections]):
        rows, offsets = candidates.pairs_of(chosen)
        truths = overlaps.truths[rows]
        fits = free[truths] & (overlaps.ious[rows, None, None] >= thresholds)
        places = np.where(fits, candidates.places[rows, :, None], 0)
        best = np.maximum.reduceat(places, offsets, axis=0)
        d, a, t = np.nonzero(best)
        taken = overlaps.truths[candidates.at_place[starts[chosen[d]] + best[d, a, t] - 1, a]]
        matched[chosen[d], a, t] = taken
        free[taken, a, t] = crowd[taken]
    return Matches(detections=detections, truths=matched)


class _Candidates:
    """The pairs of each detection, ordered from the least wanted to the most wanted.

    Attributes:
        places: ``(P, A)`` from 1: position of a pair in that order among those of its detection.
        at_place: ``(P, A)`` the pair at the position that its index stands for.
    """

    def __init__(self, overlaps: Overlaps, starts: Array, ignored: Array) -> None:
        self._starts = starts
        self._lengths = np.diff(np.append(starts, len(overlaps.truths)))
        first = np.repeat(starts, self._lengths)
        counts = ~ignored[:, overlaps.truths]
        # The positions of pairs rise with those of annotations, and lexsort keeps them.
        orders = [np.lexsort((overlaps.ious, c, overlaps.detections)) for c in counts]
        self.at_place = np.stack(orders, axis=1)
        self.places = np.empty_like(self.at_place)
        for area, order in enumerate(orders):
            self.places[order, area] = np.arange(len(order)) - first + 1

    def pairs_of(self, chosen: Array) -> tuple[Array, Array]:
        """Return the pairs of some detections, and where each detection's begin among them."""
        lengths = self._lengths[chosen]
        offsets = np.cumsum(lengths) - lengths
        rows = np.repeat(self._starts[chosen] - offsets, lengths) + np.arange(lengths.sum())
        return rows, offsets


def _rounds(groups: Array) -> list[Array]:
    """Split ``(C,)`` detections: the first of every group, then the second, and so on."""
    is_new = np.append(True, groups[1:] != groups[:-1])
    starts = np.flatnonzero(is_new)
    turns = np.arange(len(groups)) - starts[np.cumsum(is_new) - 1]
    order = np.argsort(turns, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(turns[order])) + 1)

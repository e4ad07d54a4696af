# SPDX-License-Identifier: Apache-2.0
"""The kind of every error of a detector, by the definitions of TIDE.

A detection that finds no object of its class is, by its overlaps with the annotations, the first
of these that holds:

* localisation: an object of its class overlaps it at least as the background does not, and not
  more than a find needs;
* classification: an object of another class overlaps it as a find needs;
* duplicate: an object of its class does, which a detection of better score has found;
* background: no object overlaps it more than the background does;
* both: the rest, which overlaps an object of another class too little.

An object that is not found is missed, unless a detection with an error of classification or
localisation would find it, were it corrected.

Source: TIDE, arXiv 2008.08115, section 2.2. The order in which the kinds are asked for, what
happens on equality, and that one detection at most repairs an object are those of the authors'
toolbox, tidecv 1.0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitdet_d2.evaluation.tide_data import Array, TideData

# Kinds of a detection. RIGHT found an object; EXCUSED is neither right nor wrong.
RIGHT, EXCUSED, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(7)


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """The kinds of all detections, and what became of the annotations.

    Attributes:
        kinds: ``(N,)`` of the constants above.
        repairs: ``(N,)`` the annotation that a detection would find, were its class or its
            position corrected; -1 where there is none, or one of better score would.
        scored: ``(N,)`` whether AP takes a detection into account.
        found: ``(G,)`` whether each annotation is found.
        missed: ``(G,)`` whether it is not found, and no detection would repair that.
    """

    kinds: Array
    repairs: Array
    scored: Array
    found: Array
    missed: Array


def tell_kinds(data: TideData, *, positive_iou: float, background_iou: float) -> Kinds:
    """Tell the kind of every detection.

    Args:
        data: detections, annotations and their overlaps.
        positive_iou: overlap with which a detection finds an object of its class.
        background_iou: overlap up to which a detection lies on background;
            ``0 < background_iou < positive_iou <= 1``.
    """
    right, found = _matches(data, positive_iou)
    same_iou, same_truth = _nearest(data, same_class=True)
    other_iou, other_truth = _nearest(data, same_class=False)
    is_localisation = (background_iou <= same_iou) & (same_iou <= positive_iou)
    kinds = np.select(
        [
            right,
            is_localisation,
            other_iou >= positive_iou,
            same_iou >= positive_iou,
            np.maximum(same_iou, other_iou) <= background_iou,
        ],
        [RIGHT, LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
        BOTH,
    )
    target = np.where(kinds == LOCALISATION, same_truth, -1)
    target = np.where(kinds == CLASSIFICATION, other_truth, target)
    repairs = _repairs(target, found)
    # An excused detection is no error, but it may be why an object is not found.
    excused = data.excused & ~right
    kinds[excused & (repairs < 0)] = EXCUSED
    missed = ~found
    missed[repairs[repairs >= 0]] = False
    return Kinds(kinds=kinds, repairs=repairs, scored=~excused, found=found, missed=missed)


def _matches(data: TideData, positive_iou: float) -> tuple[Array, Array]:
    """Let detections, best score first, take the nearest object of their class that is left.

    Returns:
        ``(N,)`` whether each has found one, and ``(G,)`` whether each is found.
    """
    same = data.classes[data.pair_detections] == data.truth_classes[data.pair_truths]
    chosen = np.flatnonzero(same & (data.pair_ious >= positive_iou))
    # The nearest first; of equally near ones the first in the file.
    detections = data.pair_detections[chosen]
    chosen = chosen[np.lexsort((-data.pair_ious[chosen], detections))]
    # Plain lists: their entries are read ten times faster than those of arrays.
    right, found = [False] * len(data.classes), [False] * len(data.truth_classes)
    detections, truths = (a[chosen].tolist() for a in (data.pair_detections, data.pair_truths))
    for detection, truth in zip(detections, truths, strict=True):
        if not right[detection] and not found[truth]:
            right[detection] = found[truth] = True
    return np.array(right, bool), np.array(found, bool)


def _nearest(data: TideData, *, same_class: bool) -> tuple[Array, Array]:
    """Return the largest overlap of each detection, 0 without any, and with which annotation."""
    same = data.classes[data.pair_detections] == data.truth_classes[data.pair_truths]
    (pairs,) = np.nonzero(same == same_class)
    detections, ious = data.pair_detections[pairs], data.pair_ious[pairs]
    pairs = pairs[np.lexsort((-ious, detections))]
    detections, first = np.unique(data.pair_detections[pairs], return_index=True)
    iou = np.zeros(len(data.classes))
    truth = np.full(len(data.classes), -1, np.int64)
    iou[detections] = data.pair_ious[pairs[first]]
    truth[detections] = data.pair_truths[pairs[first]]
    return iou, truth


def _repairs(target: Array, found: Array) -> Array:
    """Leave of the detections that aim at an object the one of best score, if it is not found."""
    (aiming,) = np.nonzero(target >= 0)
    aiming = aiming[~found[target[aiming]]]
    # Detections of an image are sorted by score.
    truths, first = np.unique(target[aiming], return_index=True)
    repairs = np.full(len(target), -1, np.int64)
    repairs[aiming[first]] = truths
    return repairs

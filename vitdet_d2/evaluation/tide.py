# SPDX-License-Identifier: Apache-2.0
"""How much AP each kind of error costs: what it would be, were they all repaired.

Repairs (TIDE, section 2.3): an error of classification or localisation becomes a find of the object
it aims at, unless that is found already or another such detection of better score finds it;
otherwise, and for errors of the other kinds, the detection is taken away. Missed objects are taken
off the number of objects. All false positives: taken away. All false negatives: taken off.

A class that has no annotation counts in no mean, as in COCO's evaluation. One that a repair leaves
with neither objects nor detections leaves the mean; one left with detections alone has AP 0.

Source: TIDE, arXiv 2008.08115; equals the authors' toolbox, tidecv 1.0.1, but for what
docs/errors.md lists. AP is that of COCO's evaluation at one overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vitdet_d2.evaluation import lvis_scoring
from vitdet_d2.evaluation.tide_data import Array, TideData
from vitdet_d2.evaluation.tide_kinds import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    LOCALISATION,
    RIGHT,
    Kinds,
    tell_kinds,
)

POSITIVE_IOU, BACKGROUND_IOU = 0.5, 0.1
# Kinds of detections by name, in the order of the paper.
_DETECTION_KINDS = {
    "classification": CLASSIFICATION,
    "localisation": LOCALISATION,
    "both": BOTH,
    "duplicate": DUPLICATE,
    "background": BACKGROUND,
}
MAIN_ERRORS = (*_DETECTION_KINDS, "missed")
SPECIAL_ERRORS = ("false_positives", "false_negatives")


@dataclass(frozen=True, kw_only=True)
class ErrorCost:
    """What one kind of error costs.

    Attributes:
        count: errors.
        delta_ap: AP in percent that repairing all of them adds, at least 0.
        class_counts: ``(K,)``; a detection counts for its own class.
        class_delta_aps: ``(K,)``; NaN without annotations of the class, or where the repair leaves
            neither objects nor detections.
    """

    count: int
    delta_ap: float
    class_counts: Array
    class_delta_aps: Array


@dataclass(frozen=True, kw_only=True)
class ErrorAnalysis:
    """What is wrong with the detections of a data set.

    Attributes:
        ap: in percent, at the overlap of a find; NaN without annotations.
        class_aps: ``(K,)``, NaN for a class without annotations.
        class_truths: ``(K,)`` annotations that count.
        class_detections: ``(K,)`` detections that count.
        num_excused: detections that are neither right nor wrong.
        costs: by name: `MAIN_ERRORS` and `SPECIAL_ERRORS`.
    """

    ap: float
    class_aps: Array
    class_truths: Array
    class_detections: Array
    num_excused: int
    costs: Mapping[str, ErrorCost]


def analyse_errors(
    data: TideData,
    *,
    positive_iou: float = POSITIVE_IOU,
    background_iou: float = BACKGROUND_IOU,
) -> ErrorAnalysis:
    """Tell the errors of detections, and what each kind of them costs.

    Args:
        data: detections, annotations and their overlaps.
        positive_iou: overlap with which a detection finds an object of its class.
        background_iou: overlap up to which a detection lies on background;
            ``0 < background_iou < positive_iou <= 1``.
    """
    kinds = tell_kinds(data, positive_iou=positive_iou, background_iou=background_iou)
    scorer = _Scorer(data, kinds)
    costs = {
        name: scorer.cost(kinds.kinds == kind, *scorer.repaired(kind))
        for name, kind in _DETECTION_KINDS.items()
    }
    everything = (data.classes, kinds.scored, kinds.kinds == RIGHT)
    for name, lost in (("missed", kinds.missed), ("false_negatives", ~kinds.found)):
        costs[name] = scorer.cost(lost, *everything, lost=lost)
    right = kinds.kinds == RIGHT
    costs["false_positives"] = scorer.cost(kinds.scored & ~right, data.classes, right, right)
    return ErrorAnalysis(
        ap=mean_ap(scorer.class_aps),
        class_aps=scorer.class_aps,
        class_truths=scorer.num_truths,
        class_detections=scorer.per_class(data.classes[kinds.scored]),
        num_excused=int((~kinds.scored).sum()),
        costs={name: costs[name] for name in (*MAIN_ERRORS, *SPECIAL_ERRORS)},
    )


def mean_ap(class_aps: Array) -> float:
    """Average the classes that have an AP; NaN where none has.

    Args:
        class_aps: ``(K,)``, NaN where there is none.
    """
    defined = class_aps[~np.isnan(class_aps)]
    return float(defined.mean()) if defined.size else float("nan")


class _Scorer:
    """AP by class, as it is and after a repair."""

    def __init__(self, data: TideData, kinds: Kinds) -> None:
        self.data = data
        self.kinds = kinds
        self.num_truths = self.per_class(data.truth_classes)
        right = kinds.kinds == RIGHT
        self.class_aps = self._class_aps(data.classes, kinds.scored, right, self.num_truths)

    def per_class(self, classes: Array) -> Array:
        """Count entries by class, ``(K,)``."""
        return np.bincount(classes, minlength=len(self.data.category_ids))

    def repaired(self, kind: int) -> tuple[Array, Array, Array]:
        """Classes of the detections, which of them count and which are right after a repair."""
        wrong = self.kinds.kinds == kind
        repaired = wrong & (self.kinds.repairs >= 0)
        classes = self.data.classes.copy()
        classes[repaired] = self.data.truth_classes[self.kinds.repairs[repaired]]
        counted = (self.kinds.scored & ~wrong) | repaired
        return classes, counted, (self.kinds.kinds == RIGHT) | repaired

    def cost(
        self,
        errors: Array,
        classes: Array,
        counted: Array,
        right: Array,
        *,
        lost: Array | None = None,
    ) -> ErrorCost:
        """Compare AP after a repair with AP as it is.

        Args:
            errors: which detections, or annotations where `lost` is given, are such errors.
            classes: of the detections after the repair.
            counted: which of them count then.
            right: which of these are right.
            lost: annotations that are taken off.
        """
        owners = self.data.classes if lost is None else self.data.truth_classes
        num_truths = self.num_truths
        if lost is not None:
            num_truths = num_truths - self.per_class(self.data.truth_classes[lost])
        class_aps = self._class_aps(classes, counted, right, num_truths)
        # Without objects and detections nothing is left to be wrong.
        after = 100.0 if np.isnan(class_aps).all() else mean_ap(class_aps)
        return ErrorCost(
            count=int(errors.sum()),
            # No repair lowers AP; a difference of rounding may seem to.
            delta_ap=max(after - mean_ap(self.class_aps), 0.0),
            class_counts=self.per_class(owners[errors]),
            class_delta_aps=np.maximum(class_aps - self.class_aps, 0.0),
        )

    def _class_aps(self, classes: Array, counted: Array, right: Array, num_truths: Array) -> Array:
        """Return AP of each class in percent; NaN where it has none."""
        (rows,) = np.nonzero(counted)
        # Best score first; of equal ones the first image, and in it the first detection.
        rows = rows[np.lexsort((-self.data.scores[rows], classes[rows]))]
        outcomes = np.where(right[rows], lvis_scoring.RIGHT, lvis_scoring.WRONG).astype(np.uint8)
        numbers = np.arange(len(num_truths) + 1)
        starts = np.searchsorted(classes[rows], numbers)
        aps = np.full(len(num_truths), np.nan)
        for k in np.flatnonzero(self.num_truths):
            found = outcomes[None, starts[k] : starts[k + 1]]
            if num_truths[k]:
                precision, _ = lvis_scoring.precision_and_recall(found, int(num_truths[k]))
                aps[k] = precision.mean() * 100
            elif found.size:
                aps[k] = 0.0
        return aps

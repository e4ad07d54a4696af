# SPDX-License-Identifier: Apache-2.0
"""From the name of an axis to what prepares a side for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vitdet_d2.analysis.bench.case import Case, Side, Subject
from vitdet_d2.analysis.bench.evaluation import evaluation
from vitdet_d2.analysis.bench.inference import backbone, inference
from vitdet_d2.analysis.bench.loader import loader
from vitdet_d2.analysis.bench.masks import masks
from vitdet_d2.analysis.bench.models import write_weights
from vitdet_d2.analysis.bench.training import syncs, training

WEIGHTS = "weights.pt"
_OF_MODELS: dict[str, Callable[[Case, Side, Path], Subject]] = {
    "training": training,
    "inference": inference,
    "backbone": backbone,
    "syncs": syncs,
}
_OF_DATA: dict[str, Callable[[Case, Side, Path], Subject]] = {
    "loader": loader,
    "evaluation": evaluation,
}


def prepare(case: Case, side: Side, folder: Path) -> Subject:
    """Prepare a side for a case.

    Args:
        case: what is measured.
        side: who runs it.
        folder: of the case; all sides share the files in it, weights among them.
    """
    if case.axis in _OF_MODELS:
        return _OF_MODELS[case.axis](case, side, folder / WEIGHTS)
    if case.axis in _OF_DATA:
        return _OF_DATA[case.axis](case, side, folder)
    return masks(case, side)


def write_shared(case: Case, folder: Path) -> None:
    """Write what all sides of a case share, before any of them is prepared; runs on our side.

    Args:
        case: what is measured.
        folder: of the case.
    """
    if case.axis in _OF_MODELS:
        write_weights(case, folder / WEIGHTS)

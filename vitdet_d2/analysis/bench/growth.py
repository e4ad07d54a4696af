# SPDX-License-Identifier: Apache-2.0
"""How cost grows: one case over image sides, batches and models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from vitdet_d2.analysis.bench.case import Case
from vitdet_d2.analysis.bench.outcome import CaseOutcome
from vitdet_d2.analysis.bench.rows import recipe_name

# What grows, and what the numbers on its axis are.
DIMENSIONS: Mapping[str, str] = {
    "side": "image side (pixels)",
    "batch": "images at once",
    "model": "model",
}
Series = Mapping[str, Sequence[tuple[str, CaseOutcome]]]


def growth_cases(
    first: Case, sides: Sequence[int], batches: Sequence[int], models: Sequence[str]
) -> dict[str, list[tuple[str, Case]]]:
    """Return the cases of every dimension, each with its number or name on the axis.

    Args:
        first: what all have in common; batches and models are measured at its image size.
        sides: of images, in pixels.
        batches: of the first model.
        models: sizes or recipes.
    """
    return {
        "side": [(str(side), replace(first, image_size=side)) for side in sides],
        "batch": [(str(batch), replace(first, batch=batch)) for batch in batches],
        "model": [(model, replace(first, model=recipe_name(model))) for model in models],
    }


def measure_growth(
    cases: Mapping[str, Sequence[tuple[str, Case]]], measure: Callable[[Case], CaseOutcome]
) -> Series:
    """Measure all cases, each of them once though several dimensions have it.

    Args:
        cases: of `growth_cases`.
        measure: what measures one.
    """
    known: dict[Case, CaseOutcome] = {}
    for rows in cases.values():
        for _, case in rows:
            if case not in known:
                known[case] = measure(case)
    return {name: [(label, known[case]) for label, case in rows] for name, rows in cases.items()}

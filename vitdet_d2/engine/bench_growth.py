# SPDX-License-Identifier: Apache-2.0
"""``vitdet bench --growth``: how time and memory grow, as a picture and as a table."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from vitdet_d2.engine.bench_arguments import AXES, BenchArguments
from vitdet_d2.errors import RecipeError

if TYPE_CHECKING:
    from vitdet_d2.analysis.bench.case import Case
    from vitdet_d2.analysis.bench.outcome import CaseOutcome

_AXES = ("training", "inference", "backbone")


def growth_outcomes(arguments: BenchArguments, alone: bool) -> list[CaseOutcome]:
    """Measure the rows of the picture, draw it, and return them, each once.

    Args:
        arguments: of the command line.
        alone: measure our side only.

    Raises:
        RecipeError: the axis has no image side.
    """
    from vitdet_d2.analysis.bench.growth import growth_cases, measure_growth
    from vitdet_d2.analysis.bench.growth_plot import plot_growth
    from vitdet_d2.analysis.bench.turns import measure
    from vitdet_d2.engine.bench_command import plan_of

    assert arguments.growth is not None, "asked for a picture that was not wanted"
    first = _first_case(arguments)
    plan = replace(plan_of(arguments, first.device), alone=alone)

    def measured(case: Case) -> CaseOutcome:
        print(f"measuring {case.title} ...", file=sys.stderr, flush=True)
        return measure(case, plan)

    cases = growth_cases(first, arguments.sizes, arguments.batches or (1, 2, 4), arguments.models)
    series = measure_growth(cases, measured)
    plot_growth(series, arguments.growth)
    return list({outcome.case: outcome for rows in series.values() for _, outcome in rows}.values())


def _first_case(arguments: BenchArguments) -> Case:
    """Return the case that all others are changes of.

    Raises:
        RecipeError: the axis has no image side.
    """
    from vitdet_d2.analysis.bench.rows import recipe_name
    from vitdet_d2.engine.bench_command import template
    from vitdet_d2.engine.build import resolve_device

    axis = "backbone" if arguments.axes == AXES else arguments.axes[0]
    if axis not in _AXES:
        raise RecipeError(f"--growth: expected one of {', '.join(_AXES)} in --axes, got {axis}")
    precision = (arguments.precisions or ("fp32",))[0]
    return replace(
        template(arguments),
        axis=axis,  # type: ignore[arg-type]
        model=recipe_name(arguments.models[0]),
        image_size=arguments.image_size or arguments.sizes[0],
        device=str(resolve_device(arguments.device, "--device")),
        precision=precision,  # type: ignore[arg-type]
    )

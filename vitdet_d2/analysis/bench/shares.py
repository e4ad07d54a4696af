# SPDX-License-Identifier: Apache-2.0
"""How much of the hardware's rate a row reaches: FLOPs counted on the recipe, rate measured."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from vitdet_d2.analysis.bench.case import Case, Precision
from vitdet_d2.analysis.bench.outcome import CaseOutcome
from vitdet_d2.analysis.bench.peak import nominal_rate
from vitdet_d2.analysis.bench.turns import Plan, SideError, started
from vitdet_d2.analysis.complexity import TRAINING_STEP_FACTOR, count_recipe
from vitdet_d2.analysis.detector_count import total
from vitdet_d2.analysis.job import Part
from vitdet_d2.errors import RecipeError


def with_share_of_peak(outcome: CaseOutcome, plan: Plan) -> CaseOutcome:
    """Return a row with its FLOPs and the rate of matrix products, where it computes a model.

    Args:
        outcome: measured.
        plan: how it was.
    """
    case = outcome.case
    if case.axis not in ("training", "inference", "backbone") or outcome.hardware is None:
        return outcome
    nominal = nominal_rate(outcome.hardware) if case.precision == "bf16" else None
    flops = image_flops(case)
    if flops is None:
        return outcome
    rate = measured_rate(case.precision, case.device, plan)
    return replace(outcome, flops=flops, rate=rate, nominal=nominal)


def image_flops(case: Case) -> int | None:
    """Return the FLOPs of one image, with nominal numbers of regions; None where not countable.

    A fused kernel of attention counts as the products that it stands for, a training step as three
    forward passes; what is computed twice to save memory does not count.

    Args:
        case: a model at its image size.
    """
    from vitdet_d2.analysis.bench.models import recipe_of

    part: Part = "backbone" if case.axis == "backbone" else "model"
    try:
        count = count_recipe(recipe_of(case, "ours"), (case.image_size,) * 2, part)
    except RecipeError:
        return None
    if case.axis == "training":
        return TRAINING_STEP_FACTOR * total(count.train).flops
    return total(count.test).flops


@cache
def measured_rate(precision: Precision, device: str, plan: Plan) -> float | None:
    """Return the rate of large matrix products in a process like those that were measured.

    Args:
        precision: of the numbers.
        device: that multiplies.
        plan: its threads.
    """
    with tempfile.TemporaryDirectory(prefix="vitdet_bench_") as name:
        with started(("ours",), plan, Path(name)) as processes:
            try:
                answer = processes["ours"].ask("rate", dtype=precision, device=device)
            except SideError:
                return None
    return float(answer["flops_per_second"])

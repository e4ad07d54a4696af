# SPDX-License-Identifier: Apache-2.0
"""``vitdet bench``: speed and memory, beside Detectron2 where there is one."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from vitdet_d2.engine.bench_arguments import BenchArguments, parse_bench
from vitdet_d2.errors import UserError

if TYPE_CHECKING:
    from vitdet_d2.analysis.bench.case import Case
    from vitdet_d2.analysis.bench.outcome import CaseOutcome
    from vitdet_d2.analysis.bench.rows import Wanted
    from vitdet_d2.analysis.bench.turns import Plan

# Keys that change what both sides compute; others concern our side alone.
_SHARED = ("model.", "data.")
_PRIVATE = ("data.exact",)


def main(argv: Sequence[str], prog: str) -> None:
    """Run ``vitdet bench``.

    Args:
        argv: without the program's name.
        prog: shown in messages.

    Raises:
        RecipeError: wrong usage, an unknown recipe, or an override that does not fit; before any
            work.
        UserError: something failed, or sides did not compute the same; after the report is out.
    """
    arguments = parse_bench(argv, prog)
    command = shlex.join([*prog.split(), *argv])
    from vitdet_d2.analysis.bench.report import describe, markdown
    from vitdet_d2.analysis.bench.rows import rows
    from vitdet_d2.analysis.bench.turns import versions
    from vitdet_d2.engine.bench_growth import growth_outcomes

    unmeasured = rows(wanted(arguments)) if arguments.growth is None else []
    found = versions(plan_of(arguments, "cpu"))
    alone = arguments.alone or "error" in found["shipped"]
    if arguments.growth is None:
        outcomes = [_measured(row, arguments, alone) for row in unmeasured]
    else:
        outcomes = growth_outcomes(arguments, alone)
    facts = describe(outcomes, found, command)
    tables = markdown(outcomes, found, command)
    _write(arguments, facts, tables)
    print(json.dumps(facts, indent=1) if arguments.json else tables)
    failures = [text for outcome in outcomes for text in outcome.failures]
    if failures:
        raise UserError("; ".join(failures))


def wanted(arguments: BenchArguments) -> Wanted:
    """Return which rows were asked for.

    Args:
        arguments: of the command line.
    """
    from vitdet_d2.analysis.bench.rows import Wanted
    from vitdet_d2.engine.build import resolve_device

    if arguments.device not in ("auto", "cuda"):
        resolve_device(arguments.device, "--device")
    return Wanted(
        axes=cast(Any, arguments.axes),
        models=arguments.models,
        device=arguments.device,
        image_size=arguments.image_size,
        batches=arguments.batches,
        precisions=cast(Any, arguments.precisions),
        template=template(arguments),
    )


def template(arguments: BenchArguments) -> Case:
    """Return what all cases have in common.

    Args:
        arguments: of the command line.
    """
    from vitdet_d2.analysis.bench.case import Case

    shared = [o for o in arguments.overrides if _is_shared(o)]
    return Case(
        axis="training",
        overrides=tuple(shared),
        own_overrides=tuple(o for o in arguments.overrides if o not in shared),
        num_objects=arguments.num_objects,
        data=None if arguments.data is None else str(arguments.data.resolve()),
        weights=arguments.weights,
    )


def _is_shared(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return key.startswith(_SHARED) and not key.startswith(_PRIVATE)


def plan_of(arguments: BenchArguments, device: str) -> Plan:
    """Return how rows of a device are measured.

    Args:
        arguments: of the command line.
        device: as torch names it.
    """
    from vitdet_d2.analysis.bench.turns import Plan

    on_gpu = device.startswith("cuda")
    return Plan(
        rounds=arguments.rounds or (10 if on_gpu else 5),
        runs=arguments.runs or (3 if on_gpu else 1),
        warmup=(5 if on_gpu else 1) if arguments.warmup is None else arguments.warmup,
        # Every side gives its memory back after its turn, and takes it anew at the next one.
        rewarm=1 if on_gpu else 0,
        threads=arguments.threads,
        detectron2=None if arguments.detectron2 is None else arguments.detectron2.resolve(),
        alone=arguments.alone,
    )


def _measured(row: CaseOutcome, arguments: BenchArguments, alone: bool) -> CaseOutcome:
    """Return a row with what was measured of it."""
    from vitdet_d2.analysis.bench.shares import with_share_of_peak
    from vitdet_d2.analysis.bench.turns import measure

    if row.unmeasured is not None:
        return row
    print(f"measuring {row.case.title} ...", file=sys.stderr, flush=True)
    plan = replace(plan_of(arguments, row.case.device), alone=alone)
    return with_share_of_peak(measure(row.case, plan), plan)


def _write(arguments: BenchArguments, facts: dict[str, Any], tables: str) -> None:
    from vitdet_d2.analysis.text_files import write_text

    if arguments.json_file is not None:
        write_text(arguments.json_file, json.dumps(facts, indent=1) + "\n")
    if arguments.markdown is not None:
        write_text(arguments.markdown, tables + "\n")

# SPDX-License-Identifier: Apache-2.0
"""``vitdet tune``: what can go wrong is found before the first cell starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vitdet_d2.analysis.plots import check_plot
from vitdet_d2.atomic_write import atomic_write
from vitdet_d2.engine.run_folder import make_writable
from vitdet_d2.engine.stop_signals import StopRequest
from vitdet_d2.engine.tune_arguments import TuneArguments
from vitdet_d2.engine.tune_plan import TunePlan, make_plan
from vitdet_d2.errors import RecipeError, UserError
from vitdet_d2.tuning.heat_map import draw_heat_map
from vitdet_d2.tuning.protocol import Stage, stages
from vitdet_d2.tuning.report import Report
from vitdet_d2.tuning.storage import load_study, open_study, require_optuna, shown_url
from vitdet_d2.tuning.study import TuningStudy
from vitdet_d2.tuning.work import Worker

HEAT_MAP, REPORT = "heat_map.png", "report.json"


def run_tune(arguments: TuneArguments) -> None:
    """Run a study as far as asked, and report how it stands.

    Args:
        arguments: of the command line.

    Raises:
        UserError: something that the user can cure; among it, that all cells failed.
        StoppedBySignal: the study was stopped, and saved before.
    """
    require_optuna()
    plan = make_plan(arguments)
    if arguments.dry_run:
        _show_plan(plan, as_json=arguments.json)
        return
    if not arguments.report:
        make_writable(plan.runner.output, option="--output FOLDER")
        plan.runner.require_own_folders()
    study = TuningStudy(
        (load_study if arguments.report else open_study)(plan.url, plan.name),
        plan.settings,
        grace_seconds=arguments.grace,
    )
    if not arguments.report:
        _work(arguments, plan, study)
    _finish(plan, study, as_json=arguments.json)


def _work(arguments: TuneArguments, plan: TunePlan, study: TuningStudy) -> None:
    """Run cells until the stages that were asked for are through.

    Raises:
        RecipeError: stage 2 is asked for, and stage 1 is not through.
        StoppedBySignal: a signal asked to stop.
    """
    protocol = plan.settings.protocol
    if arguments.retry_failed:
        _say(f"{study.retry_failed()} failed cells are open again")
    if arguments.stage == "2":
        (first,) = stages(protocol, study.outcomes(), 1)
        if first.best is None:
            raise RecipeError(
                f"--stage 2 needs the best pair of stage 1, of which {len(first.open)} cells are "
                "open; run --stage 1 first, or both by leaving --stage out"
            )
    _say(f"study {plan.name} in {shown_url(plan.url)}; cells in {plan.runner.output / 'cells'}")
    with StopRequest() as stop:
        Worker(
            study,
            protocol,
            plan.last,
            plan.runner.start,
            plan.runner.slots.count,
            say=_say,
            stop_signal=lambda: stop.signum,
        ).work()


def _show_plan(plan: TunePlan, *, as_json: bool) -> None:
    """Print what would be run first."""
    (*_, stage) = stages(plan.settings.protocol, {}, plan.last)
    rows = [{"cell": cell.key, "command": plan.runner.command(cell)} for cell in stage.cells]
    if as_json:
        print(json.dumps({"stage": stage.number, "cells": rows}, indent=1))
        return
    print(f"stage {stage.number}: {len(rows)} cells, {plan.runner.slots.count} at once")
    for row in rows:
        print(row["command"])


def _finish(plan: TunePlan, study: TuningStudy, *, as_json: bool) -> None:
    """Report how the study stands, on the terminal and in its folder.

    Raises:
        UserError: all cells of a stage failed, after the report.
    """
    records = study.records()
    known = stages(plan.settings.protocol, study.outcomes(), plan.last)
    report = Report(
        name=plan.name,
        storage=shown_url(plan.url),
        stages=known,
        records=records,
        runner=plan.runner,
        heat_map=_draw(plan, study, known[0]),
    )
    text = json.dumps(report.as_data(), indent=1)
    if plan.runner.output.is_dir():
        with atomic_write(plan.runner.output / REPORT) as file:
            file.write(f"{text}\n".encode())
    print(text if as_json else report.as_text())
    if not known[-1].open and known[-1].best is None:
        raise UserError(
            f"all {len(known[-1].cells)} cells of stage {known[-1].number} failed, the first one: "
            f"{records[known[-1].cells[0]].error}; cure it and add --retry-failed to the command, "
            "or begin another study (--output FOLDER) where the cure is another recipe or override"
        )


def _draw(plan: TunePlan, study: TuningStudy, first: Stage) -> Path | None:
    """Draw the grid into the study's folder, where there is one, something in it, and matplotlib.

    Raises:
        UserError: the picture cannot be written.
    """
    outcomes = study.outcomes()
    if first.grid is None or not outcomes or not plan.runner.output.is_dir():
        return None
    path = plan.runner.output / HEAT_MAP
    try:
        check_plot(path)
    except RecipeError as error:
        _say(f"no heat map: {error}")
        return None
    draw_heat_map(
        first.grid, outcomes, first.best, metric=plan.runner.metric, title=plan.name, path=path
    )
    return path


def _say(text: str) -> None:
    """Tell the user a line while the study runs; standard output is the report's."""
    print(text, file=sys.stderr, flush=True)

# SPDX-License-Identifier: Apache-2.0
"""A comparison of runs as a Markdown table, as JSON, and as rows of CSV.

What was measured here and what is published never share a row, and every row says which it is
where both occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitdet_d2.analysis.comparison import Comparison, Run, title
from vitdet_d2.analysis.published import PublishedRow
from vitdet_d2.analysis.text_files import Cell

_NOTHING = "n/a"


def as_markdown(comparison: Comparison) -> str:
    """Return the table of final and best values.

    Args:
        comparison: what to show; a column that no row fills is left out.
    """
    best = [f"best {title(metric)}" for metric in comparison.metrics]
    head = ["run", "recipe", "initialisation", "schedule"]
    numbers = [*map(title, comparison.metrics), *best]
    rows = [_run_row(run, comparison) for run in comparison.runs]
    if comparison.published:
        head.append("source")
        rows = [[*row[:4], "measured here", *row[4:]] for row in rows]
        rows += [_published_row(row, comparison) for row in comparison.published]
    titles = [*head, *numbers]
    kept = [i for i in range(len(titles)) if i >= len(head) or any(row[i] for row in rows)]
    table = [titles, *([cell or _NOTHING for cell in row] for row in rows)]
    return _markdown([[row[i] for i in kept] for row in table], len(kept) - len(numbers))


def _run_row(run: Run, comparison: Comparison) -> list[str]:
    finals = [_number(run.final(metric)) for metric in comparison.metrics]
    bests = []
    for metric in comparison.metrics:
        point = run.best(metric)
        cell = ""
        if point is not None:
            when = _schedule(run, point[0].iterations, comparison)
            cell = f"{point[1]:.1f} ({when})"
        bests.append(cell)
    schedule = _schedule(run, run.metrics.iterations, comparison)
    if run.is_complete is False:
        full = _schedule(run, run.facts.max_iter or 0, comparison)
        schedule = f"{schedule} of {full}"
    recipe, initialisation = run.facts.recipe or "", run.facts.initialisation or ""
    return [run.name, recipe, initialisation, schedule, *finals, *bests]


def _published_row(row: PublishedRow, comparison: Comparison) -> list[str]:
    values = [_number(row.values.get(metric)) for metric in comparison.metrics]
    head = [row.name, row.name, row.initialisation, row.schedule, "published"]
    return [*head, *values, *("" for _ in comparison.metrics)]


def _schedule(run: Run, iterations: int, comparison: Comparison) -> str:
    epochs = run.facts.epochs(iterations) if comparison.by_epochs else None
    return f"{iterations} it" if epochs is None else f"{epochs:.3g} ep"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _markdown(rows: Sequence[Sequence[str]], num_texts: int) -> str:
    """Lay rows out as Markdown that is a table for the eye too: texts left, numbers right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(
            cell.ljust(width) if i < num_texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ) + " |"
        for row in cells
    ]  # fmt: skip
    rule = [
        "-" * width if i < num_texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)
    ]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything as plain values; None where it is not known.

    Args:
        comparison: what to show.
    """
    return {
        "metrics": list(comparison.metrics),
        "runs": [_run_json(run, comparison.metrics) for run in comparison.runs],
        "published": [
            {
                "name": row.name,
                "initialisation": row.initialisation,
                "schedule": row.schedule,
                "values": {metric: row.values.get(metric) for metric in comparison.metrics},
                "source": row.source,
            }
            for row in comparison.published
        ],
        "notes": comparison.notes(),
    }


def _run_json(run: Run, metrics: Sequence[str]) -> dict[str, Any]:
    best: dict[str, Any] = {}
    for metric in metrics:
        point = run.best(metric)
        best[metric] = point and {"value": point[1], "iterations": point[0].iterations}
    return {
        "name": run.name,
        "file": str(run.file),
        "recipe": run.facts.recipe,
        "initialisation": run.facts.initialisation,
        "batch": run.facts.batch,
        "images_per_epoch": run.facts.images_per_epoch,
        "max_iter": run.facts.max_iter,
        "iterations": run.metrics.iterations,
        "epochs": run.facts.epochs(run.metrics.iterations),
        "complete": run.is_complete,
        "evaluations": [
            {
                "iterations": evaluation.iterations,
                "epochs": run.facts.epochs(evaluation.iterations),
                "values": {metric: evaluation.values.get(metric) for metric in metrics},
            }
            for evaluation in run.metrics.evaluations
        ],
        "final": {metric: run.final(metric) for metric in metrics},
        "best": best,
    }


def as_rows(comparison: Comparison) -> list[list[Cell]]:
    """Return titles, and one row for every evaluation of every run.

    Args:
        comparison: what to show.
    """
    head: list[Cell] = ["run", "recipe", "initialisation", "iterations", "epochs"]
    rows = [[*head, *comparison.metrics]]
    for run in comparison.runs:
        for evaluation in run.metrics.evaluations:
            epochs = run.facts.epochs(evaluation.iterations)
            values = [evaluation.values.get(metric) for metric in comparison.metrics]
            known: list[Cell] = [run.name, run.facts.recipe, run.facts.initialisation]
            rows.append([*known, evaluation.iterations, epochs, *values])
    return rows

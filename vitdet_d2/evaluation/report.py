# SPDX-License-Identifier: Apache-2.0
"""Evaluation results for people and for programs.

``results`` is what `COCOEvaluator.evaluate` returns: ``{"bbox": {"AP": 41.2, ...,
"AP-cat": 50.1}, "segm": {...}}``, in percent; NaN means that there is no ground truth.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Results = Mapping[str, Mapping[str, float]]

_TASK_TITLES = {"bbox": "box AP", "segm": "mask AP"}
_CLASS_PREFIX = "AP-"
_MOST_METRICS = 9
_LINE = 80  # characters, where a class's name leaves room
# A list of more fills the screen; all classes are in the JSON.
_MOST_CLASSES = 100


def flatten_metrics(results: Results) -> dict[str, float]:
    """Return ``{"bbox/AP": 41.2, ...}``, as the training log and TensorBoard name metrics."""
    return {
        f"{task}/{name}": float(value)
        for task, metrics in results.items()
        for name, value in metrics.items()
    }


def summary_line(results: Results) -> str:
    """Say the outcome in one line, for example ``box AP 41.2 (AP50 61.0), mask AP 36.5 (...)``."""
    if not results:
        return "nothing was evaluated"
    return ", ".join(
        f"{_title(task)} {_number(metrics.get('AP'))} (AP50 {_number(metrics.get('AP50'))})"
        for task, metrics in results.items()
    )


def format_report(results: Results) -> str:
    """Lay the results out as text: the main metrics by task, then AP by class.

    Returns:
        Lines of at most about 80 characters; ``n/a`` where there is no ground truth.
    """
    if not results:
        return "nothing was evaluated"
    tasks = list(results)
    main = list(dict.fromkeys(n for m in results.values() for n in m if "-" not in n))
    lines: list[str] = []
    # Three lines of few metrics are read more easily than one that wraps: LVIS has thirteen.
    for start in range(0, len(main), _MOST_METRICS):
        names = main[start : start + _MOST_METRICS]
        rows = [[_title(t), *(_number(results[t].get(name)) for name in names)] for t in tasks]
        lines += _aligned([["", *names], *rows])
    classes = list(
        dict.fromkeys(n for m in results.values() for n in m if n.startswith(_CLASS_PREFIX))
    )
    if len(classes) > _MOST_CLASSES:
        lines += ["", f"AP of each of the {len(classes)} classes: see the JSON"]
    elif classes:
        rows = [
            [name.removeprefix(_CLASS_PREFIX), *(_number(results[t].get(name)) for t in tasks)]
            for name in classes
        ]
        lines += ["", *_side_by_side(["class", *map(_title, tasks)], rows)]
    if any(math.isnan(value) for value in flatten_metrics(results).values()):
        lines += ["", "n/a: no ground truth; it counts in no average"]
    return "\n".join(lines)


def write_report(results: Results, path: str | os.PathLike[str]) -> Path:
    """Write the results as JSON, with null in place of NaN, which is no JSON.

    Args:
        results: nested by task.
        path: the file, replaced if it exists; its folder is made.

    Returns:
        The path of the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = {
        task: {name: _json_number(value) for name, value in metrics.items()}
        for task, metrics in results.items()
    }
    path.write_text(json.dumps(plain, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _title(task: str) -> str:
    return _TASK_TITLES.get(task, task)


def _number(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.1f}"


def _json_number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _side_by_side(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lay a long table out in as many columns of itself as a line has room for."""
    width = max(map(len, _aligned([head, *rows])))
    gap = 4
    most = max(1, (_LINE + gap) // (width + gap))
    per_column = max(10, -(-len(rows) // most))
    columns = [
        _aligned([head, *rows[start : start + per_column]])
        for start in range(0, len(rows), per_column)
    ]
    separator = " " * gap
    return [
        separator.join(
            cell.ljust(max(map(len, column))) for cell, column in zip(line, columns, strict=True)
        ).rstrip()
        for line in itertools.zip_longest(*columns, fillvalue="")
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Pad cells to columns: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

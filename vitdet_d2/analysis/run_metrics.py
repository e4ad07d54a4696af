# SPDX-License-Identifier: Apache-2.0
"""What ``metrics.json`` of a run says: one JSON object per line, with its ``iteration``.

Where a run was resumed from an older checkpoint, iterations occur twice; what was written last
stands, and what the older run did beyond is dropped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vitdet_d2.engine.metrics_file import METRICS_FILE
from vitdet_d2.errors import DataError

# What every line of training has, and no line of an evaluation alone.
_OF_TRAINING = frozenset({"total_loss", "lr", "time", "data_time"})
# Evaluations name their metrics by task; training has such names too, of its own parts.
_TASKS = ("bbox/", "segm/", "keypoints/", "sem_seg/", "panoptic_seg/")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation measured.

    Attributes:
        iterations: completed before it.
        values: by the name of the metric, for example ``bbox/AP``; finite.
    """

    iterations: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """The history of a run.

    Attributes:
        evaluations: by rising iterations.
        iterations: completed so far.
        num_resumed: how often the run went back to an older iteration.
        undefined: metrics that were once NaN or null, as without annotations.
        notes: what was odd about the file.
    """

    evaluations: tuple[Evaluation, ...]
    iterations: int
    num_resumed: int
    undefined: frozenset[str]
    notes: tuple[str, ...]


def metrics_file(path: Path) -> Path:
    """Return the file of a run.

    Args:
        path: the file itself, or the run folder.

    Raises:
        DataError: there is none.
    """
    file = path / METRICS_FILE if path.is_dir() else path
    if file.is_file():
        return file
    what = f"the folder has no {METRICS_FILE}" if path.is_dir() else "there is no such file"
    raise DataError(f"{path}: {what}; give the folder of a run that has trained")


def read_metrics(file: Path) -> RunMetrics:
    """Read the history of a run, also of one that is under way.

    Args:
        file: its ``metrics.json``.

    Raises:
        DataError: it cannot be read, or is another file.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    rows, bad = _rows(lines)
    if bad and not rows:
        raise DataError(
            f"{file}: no line is a JSON object with an 'iteration'; expected {METRICS_FILE} of a "
            "run"
        )
    merged, num_resumed = _merged(rows)
    trained = [i for i, row in merged.items() if not _OF_TRAINING.isdisjoint(row)]
    last_trained = max(trained, default=math.inf)
    evaluations, undefined = [], set()
    for iteration, row in sorted(merged.items()):
        metrics = {name: value for name, value in row.items() if name.startswith(_TASKS)}
        finite = {k: float(v) for k, v in metrics.items() if v is not None and math.isfinite(v)}
        undefined |= metrics.keys() - finite.keys()
        if metrics:
            # That of the final weights is written at the iteration behind the last one.
            done = iteration if iteration > last_trained else iteration + 1
            evaluations.append(Evaluation(iterations=done, values=finite))
    completed = [int(last_trained) + 1] if trained else []
    return RunMetrics(
        evaluations=tuple(evaluations),
        iterations=max([*completed, *(e.iterations for e in evaluations)], default=0),
        num_resumed=num_resumed,
        undefined=frozenset(undefined),
        notes=tuple(_notes(bad, len(lines))),
    )


def _rows(lines: list[str]) -> tuple[list[tuple[int, dict[str, float | None]]], list[int]]:
    """Return iteration and numbers of each line, and which lines are none."""
    rows, bad = [], []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            iteration = int(content["iteration"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            bad.append(number)
            continue
        rows.append((iteration, dict(_numbers(content))))
    return rows, bad


def _numbers(content: Mapping[str, object]) -> Iterator[tuple[str, float | None]]:
    for name, value in content.items():
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield name, value


def _merged(
    rows: list[tuple[int, dict[str, float | None]]],
) -> tuple[dict[int, dict[str, float | None]], int]:
    """Join what was written of each iteration; what was written last stands.

    Returns:
        Numbers by iteration, and how often it went back.
    """
    merged: dict[int, dict[str, float | None]] = {}
    previous = num_resumed = 0
    for iteration, row in rows:
        if iteration < previous:
            num_resumed += 1
            merged = {i: old for i, old in merged.items() if i < iteration}
        merged.setdefault(iteration, {}).update(row)
        previous = iteration
    return merged, num_resumed


def _notes(bad: list[int], num_lines: int) -> Iterator[str]:
    if bad and bad[-1] == num_lines - 1:
        yield "the last line is cut off: the run is under way, or was killed"
        bad = bad[:-1]
    if bad:
        yield f"{len(bad)} lines are no metrics and are left out (line {bad[0] + 1}, ...)"

# SPDX-License-Identifier: Apache-2.0
"""What the run of a cell came to: its value, or what went wrong."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path

from vitdet_d2.engine.manifest import FINAL, read_manifest
from vitdet_d2.engine.metrics_file import METRICS_FILE
from vitdet_d2.tuning.settings import Objective

# From the end of a log, where no line says "error:".
_LINES_SHOWN = 3


class NoValueError(ValueError):
    """A run that ended well and has no value."""


def is_complete(folder: Path, metric: str) -> bool:
    """Return whether a run has trained to its end and evaluated its final weights.

    Args:
        folder: of the run; may be missing.
        metric: that the evaluation gives.
    """
    length = _length(folder)
    return length is not None and any(i >= length for i, _ in _evaluations(folder, metric))


def read_value(folder: Path, metric: str, objective: Objective) -> float:
    """Return the value of a complete run.

    Args:
        folder: of the run.
        metric: name in ``metrics.json``.
        objective: "final": of the final weights; "best": the highest of all evaluations.

    Raises:
        NoValueError: its final weights have no such metric.
    """
    length = _length(folder)
    if length is None:
        raise NoValueError(f"{folder} holds no {FINAL} with its manifest")
    found = list(_evaluations(folder, metric))
    final = [value for iteration, value in found if iteration >= length]
    if not final:
        names = sorted({name for line in _lines(folder) for name in line if "/AP" in name})
        raise NoValueError(
            f"{folder / METRICS_FILE} has no {metric} of the final weights (not evaluated, or "
            f"undefined); it has {', '.join(names[:8]) or 'no AP at all'}"
        )
    return final[-1] if objective == "final" else max(value for _, value in found)


def explain(returncode: int, log: str) -> str:
    """Return in one line why a process of a cell failed.

    Args:
        returncode: of the process; negative: the signal that killed it.
        log: what it printed.
    """
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
        return f"the process was killed by {name}{hint}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error: ")]
    if told:
        return told[-1].removeprefix("error: ")
    if returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT):
        return "the process was stopped by a signal from outside, after it had saved its state"
    # The last line of a traceback is the error itself.
    return f"exit code {returncode}: {' | '.join(lines[-_LINES_SHOWN:]) or 'nothing was printed'}"


def _length(folder: Path) -> int | None:
    """Return how many iterations a run had, None where it is not through."""
    if not (folder / FINAL).is_file():
        return None
    record = read_manifest((folder / FINAL).with_suffix(".json"))
    return None if isinstance(record, str) else record.iteration + 1


def _evaluations(folder: Path, metric: str) -> Iterator[tuple[int, float]]:
    for line in _lines(folder):
        value = line.get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            yield int(line["iteration"]), float(value)


def _lines(folder: Path) -> Iterator[dict[str, float]]:
    """Yield the lines of metrics that are whole."""
    path = folder / METRICS_FILE
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "iteration" in line:
            yield line

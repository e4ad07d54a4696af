# SPDX-License-Identifier: Apache-2.0
"""``metrics.json``, one JSON object per line, where a run continues it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from vitdet_d2.atomic_write import atomic_write

METRICS_FILE = "metrics.json"


def trim_metrics(path: Path, start_iter: int) -> None:
    """Drop lines of iterations from `start_iter` on, and lines that a crash cut off.

    Args:
        path: JSON objects, one per line; may not exist.
        start_iter: the iteration that comes next.

    Raises:
        OSError: the file cannot be rewritten; it is as it was.
    """
    if not path.is_file():
        return
    kept = [line for line in _lines(path) if _iteration_of(line) < start_iter]
    with atomic_write(path) as file:
        file.write("".join(f"{line}\n" for line in kept).encode("utf-8"))


def written_metrics(path: Path) -> dict[int, set[str]]:
    """The names of the metrics that the file holds, by iteration.

    Args:
        path: as in `trim_metrics`; lines that a crash cut off do not count.
    """
    names: defaultdict[int, set[str]] = defaultdict(set)
    for line in _lines(path) if path.is_file() else []:
        iteration = _iteration_of(line)
        if iteration != float("inf"):
            names[int(iteration)] |= json.loads(line).keys()
    return dict(names)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _iteration_of(line: str) -> float:
    """Infinity for what is not a line of metrics."""
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")

# SPDX-License-Identifier: Apache-2.0
"""What a run shows and records: a bar or lines, ``metrics.json``, TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)
from tqdm import tqdm

from vitdet_d2.engine.atomic_write import atomic_write
from vitdet_d2.engine.terminal import shows_bars
from vitdet_d2.progress_bar import bar

METRICS_FILE = "metrics.json"


def progress_hooks(
    output_dir: Path, *, start_iter: int, max_iter: int, log_period: int
) -> list[HookBase]:
    """The hooks of the main process; files of an earlier part of the run are continued.

    Args:
        output_dir: the run folder.
        start_iter: recorded metrics from this iteration on are dropped, since they come again.
        max_iter: the run's length.
        log_period: in iterations.
    """
    trim_metrics(output_dir / METRICS_FILE, start_iter)
    writers: list[EventWriter] = [
        CommonMetricPrinter(max_iter),
        JSONWriter(str(output_dir / METRICS_FILE)),
        TensorboardXWriter(str(output_dir), purge_step=start_iter),
    ]
    hooks: list[HookBase] = [PeriodicWriter(writers, log_period)]
    return [*hooks, ProgressBar()] if shows_bars() else hooks


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
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _iteration_of(line) < start_iter]
    with atomic_write(path) as file:
        file.write("".join(f"{line}\n" for line in kept).encode("utf-8"))


def metric_names(path: Path, iteration: int) -> set[str]:
    """Names of the metrics that the file holds for an iteration.

    Args:
        path: as in `trim_metrics`.
        iteration: of the lines to look at.
    """
    if not path.is_file():
        return set()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name for line in lines if _iteration_of(line) == iteration for name in json.loads(line)}


def _iteration_of(line: str) -> float:
    """Infinity for what is not a line of metrics."""
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class ProgressBar(HookBase):
    """A bar on the terminal with time left, loss and learning rate."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def before_train(self) -> None:
        """Draw the bar."""
        trainer = self.trainer
        self._bar = bar(total=trainer.max_iter, initial=trainer.start_iter, desc="train", unit="it")

    def after_step(self) -> None:
        """Advance the bar."""
        if self._bar is None:
            return
        latest = self.trainer.storage.latest()
        shown = {
            label: f"{latest[name][0]:.4g}"
            for label, name in (("loss", "total_loss"), ("lr", "lr"))
            if name in latest
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Leave the bar where it is."""
        if self._bar is not None:
            self._bar.close()


class EvaluationBar:
    """A loader whose progress is shown while it is read; it leaves nothing behind."""

    def __init__(self, loader: Any) -> None:
        """Wrap a loader.

        Args:
            loader: iterable with a length.
        """
        self._loader = loader

    def __len__(self) -> int:
        assert isinstance(self._loader, Sized), "evaluation needs a loader with a length"
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        with bar(self._loader, total=len(self), desc="evaluate", unit="it", leave=False) as shown:
            yield from shown

# SPDX-License-Identifier: Apache-2.0
"""What a run shows and records: a bar or lines, ``metrics.json``, TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
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

from vitdet_d2.engine.metrics_file import METRICS_FILE, trim_metrics
from vitdet_d2.engine.terminal import shows_bars
from vitdet_d2.progress_bar import bar


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
    files: list[EventWriter] = [
        JSONWriter(str(output_dir / METRICS_FILE)),
        TensorboardXWriter(str(output_dir), purge_step=start_iter),
    ]
    hooks: list[HookBase] = [
        CatchUpWriter(files, log_period),
        PeriodicWriter([CommonMetricPrinter(max_iter), *files], log_period),
    ]
    return [*hooks, ProgressBar()] if shows_bars() else hooks


class CatchUpWriter(HookBase):
    """Writes what a run that was killed after its last checkpoint had not written yet.

    Checkpoints are saved before metrics are written. Stands after the hooks that restore metrics
    and that make up for an evaluation.
    """

    def __init__(self, writers: Sequence[EventWriter], period: int) -> None:
        """Remember the writers.

        Args:
            writers: of files.
            period: in iterations, as `PeriodicWriter` has it.
        """
        self._writers = writers
        self._period = period

    def before_train(self) -> None:
        """Write if the last iteration behind the run is one after which metrics are written."""
        done = self.trainer.start_iter
        if done > 0 and (done % self._period == 0 or done == self.trainer.max_iter):
            for writer in self._writers:
                writer.write()


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

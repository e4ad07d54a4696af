# SPDX-License-Identifier: Apache-2.0
"""Where the numbers of a run go: a JSON file, TensorBoard, the log.

Source: detectron2 ``utils/events.py``, which re-exports these names.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from functools import cached_property
from typing import Any

import torch
from detectron2.utils.events import EventStorage, get_event_storage
from detectron2.utils.file_io import PathManager

__all__ = ["CommonMetricPrinter", "EventWriter", "JSONWriter", "TensorboardXWriter"]


class EventWriter:
    """Reads the storage in use from time to time and writes it somewhere."""

    def write(self) -> None:
        """Write what is new.

        Raises:
            NotImplementedError: a subclass defines it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define write()")

    def close(self) -> None:
        """Finish; the base class has nothing to do."""


class JSONWriter(EventWriter):
    """Appends one JSON object per line and iteration: ``{"iteration": 19, "total_loss": 1.2}``."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        """Open the file to append.

        Args:
            json_file: its path.
            window_size: iterations whose median stands for a noisy scalar.
        """
        self._file_handle = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        """Write the scalars that are newer than the last line, and force them to the disk."""
        rows: defaultdict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                rows[iteration][name] = value
        for iteration in sorted(rows):
            row = {**rows[iteration], "iteration": iteration}
            self._file_handle.write(json.dumps(row, sort_keys=True) + "\n")
            self._last_write = iteration
        self._file_handle.flush()
        if hasattr(self._file_handle, "fileno"):
            os.fsync(self._file_handle.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file_handle.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms for TensorBoard."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        """Remember where; the file is made with the first entry.

        Args:
            log_dir: folder of the event files.
            window_size: iterations whose median stands for a noisy scalar.
            **kwargs: further arguments of ``torch.utils.tensorboard.SummaryWriter``.
        """
        self._window_size = window_size
        self._writer_args: dict[str, Any] = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard files need tensorboard: `pip install tensorboard`"
            ) from error
        return SummaryWriter(**self._writer_args)

    def write(self) -> None:
        """Write the scalars that are newer than last time, and all pictures and histograms."""
        storage = get_event_storage()
        newest = self._last_write
        latest = storage.latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        """Close the file, if there is one."""
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: time left, iteration, losses, times, learning rate, GPU memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        """Remember the end of the run.

        Args:
            max_iter: iterations of the run; no time left is shown when None.
            window_size: iterations whose median stands for a loss.
        """
        # Detectron2's name, whichever file the class stands in: log filters know it.
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def write(self) -> None:
        """Log the line; nothing after the last iteration."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        parts = [
            self._time_left(storage),
            f"iter: {storage.iter}",
            *self._medians(storage, "loss"),
            *self._medians(storage, "[metric]"),
            *self._times(storage),
            f"lr: {storage.history('lr').latest():.5g}" if self._has(storage, "lr") else "lr: N/A",
        ]
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" %s", "  ".join(part for part in parts if part))

    @staticmethod
    def _has(storage: EventStorage, name: str) -> bool:
        return name in storage.histories()

    def _medians(self, storage: EventStorage, mark: str) -> list[str]:
        return [
            f"{name}: {history.median(storage.count_samples(name, self._window_size)):.4g}"
            for name, history in storage.histories().items()
            if mark in name
        ]

    def _times(self, storage: EventStorage) -> list[str]:
        shown = []
        if self._has(storage, "time"):
            history = storage.history("time")
            shown += [f"time: {history.global_avg():.4f}", f"last_time: {history.latest():.4f}"]
        if self._has(storage, "data_time"):
            history = storage.history("data_time")
            count = storage.count_samples("data_time", self._window_size)
            shown += [
                f"data_time: {history.avg(count):.4f}",
                f"last_data_time: {history.latest():.4f}",
            ]
        return shown

    def _time_left(self, storage: EventStorage) -> str:
        if self._max_iter is None:
            return ""
        remaining = self._max_iter - storage.iter - 1
        if self._has(storage, "time"):
            seconds = storage.history("time").median(1000) * remaining
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        else:
            previous, self._last_write = self._last_write, (storage.iter, time.perf_counter())
            if previous is None or storage.iter == previous[0]:
                return ""
            per_iteration = (time.perf_counter() - previous[1]) / (storage.iter - previous[0])
            seconds = per_iteration * remaining
        return f"eta: {datetime.timedelta(seconds=int(seconds))}"

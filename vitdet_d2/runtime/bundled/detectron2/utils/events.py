# SPDX-License-Identifier: Apache-2.0
"""Numbers of a run: the storage that everything writes to.

Vocabulary:
    scalar: a named float per iteration. smoothing hint: whether it is noisy, so that writers show
    the median over a window.

Source: detectron2 ``utils/events.py``. The writers stand in ``event_writers.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from types import TracebackType
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer
from torch import Tensor

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

_CURRENT_STORAGE_STACK: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """Return the storage in use.

    Raises:
        AssertionError: there is none, as Detectron2 has it.
    """
    assert _CURRENT_STORAGE_STACK, (
        "get_event_storage() needs a storage in use: call it inside `with EventStorage():`"
    )
    return _CURRENT_STORAGE_STACK[-1]


def has_event_storage() -> bool:
    """Return whether a storage is in use."""
    return bool(_CURRENT_STORAGE_STACK)


class EventStorage:
    """Collects scalars, images and histograms; in use inside ``with EventStorage() as storage``."""

    def __init__(self, start_iter: int = 0) -> None:
        """Start empty.

        Args:
            start_iter: the first iteration.
        """
        self._iter = start_iter
        self._prefix = ""
        self._history: defaultdict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        # Emptied by the TensorBoard writer.
        self._vis_data: list[tuple[str, Any, int]] = []
        self._histograms: list[dict[str, Any]] = []

    @property
    def iter(self) -> int:
        """The iteration that new entries belong to."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    @property
    def iteration(self) -> int:
        """Another name of ``iter``."""
        return self._iter

    def step(self) -> None:
        """Go to the next iteration."""
        self._iter += 1

    def put_scalar(
        self,
        name: str,
        value: float | Tensor,
        smoothing_hint: bool = True,
        cur_iter: int | None = None,
    ) -> None:
        """Store one number.

        Args:
            name: under the current ``name_scope``.
            value: a number, or a tensor of one element (which waits for the device).
            smoothing_hint: whether it is noisy; the same for every value of a name.
            cur_iter: the iteration, where it is not the current one.

        Raises:
            AssertionError: the hint changed.
        """
        name = self._prefix + name
        iteration = self._iter if cur_iter is None else cur_iter
        known_hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert known_hint == smoothing_hint, (
            f"scalar {name} was put with smoothing_hint={known_hint} before"
        )
        value = float(value)
        self._history[name].update(value, iteration)
        self._latest[name] = (value, iteration)

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float | Tensor
    ) -> None:
        """Store several numbers, named by the keywords.

        Args:
            smoothing_hint: as in ``put_scalar``.
            cur_iter: as in ``put_scalar``.
            **kwargs: name and value.
        """
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Store a picture for TensorBoard.

        Args:
            img_name: its title.
            img_tensor: ``(3, H, W)`` RGB; float in 0 to 1, or uint8 in 0 to 255.
        """
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: Tensor, bins: int = 1000) -> None:
        """Store the histogram of a tensor for TensorBoard.

        Args:
            hist_name: its title.
            hist_tensor: any shape, floating point.
            bins: number of equal bins between the extremes.
        """
        low, high = hist_tensor.min().item(), hist_tensor.max().item()
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float32)
        self._histograms.append(
            {
                "tag": hist_name,
                "min": low,
                "max": high,
                "num": hist_tensor.numel(),
                "sum": float(hist_tensor.sum()),
                "sum_squares": float(hist_tensor.square().sum()),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": torch.histc(hist_tensor, bins=bins).tolist(),
                "global_step": self._iter,
            }
        )

    def history(self, name: str) -> HistoryBuffer:
        """Return all values of a scalar.

        Args:
            name: with its scope.

        Raises:
            KeyError: nothing was put under the name.
        """
        if name not in self._history:
            raise KeyError(f"no scalar {name!r} was put; known: {sorted(self._history)}")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return the values of every scalar by name: a copy, for a thread may put new ones."""
        return dict(self._history)

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return the last value of every scalar and its iteration; taking one out hides it."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Return what writers show: the median over a window where the hint says so.

        Args:
            window_size: in iterations.
        """
        return {
            name: (
                self._history[name].median(self.count_samples(name, window_size))
                if self._smoothing_hints[name]
                else value,
                iteration,
            )
            for name, (value, iteration) in dict(self._latest).items()  # a thread may put new ones
        }

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Return how many values a scalar got in the last iterations.

        Args:
            name: of the scalar.
            window_size: in iterations, counted back from the scalar's own last one.
        """
        entries = self._history[name].values()
        oldest = entries[-1][1] - window_size
        # From the end: a long run has a long history.
        return sum(1 for _ in takewhile(lambda entry: entry[1] > oldest, reversed(entries)))

    def smoothing_hints(self) -> dict[str, bool]:
        """Return the hint of every scalar."""
        return self._smoothing_hints

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix the names of what is put inside.

        Args:
            name: the prefix; a slash is added.
        """
        outer = self._prefix
        self._prefix = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def clear_images(self) -> None:
        """Forget the pictures; the TensorBoard writer calls it."""
        self._vis_data = []

    def clear_histograms(self) -> None:
        """Forget the histograms; the TensorBoard writer calls it."""
        self._histograms = []

    def __enter__(self) -> EventStorage:
        _CURRENT_STORAGE_STACK.append(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        assert _CURRENT_STORAGE_STACK[-1] is self, "storages must be left in reverse order"
        _CURRENT_STORAGE_STACK.pop()


from detectron2.utils.event_writers import (  # noqa: E402  (they need the storage above)
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)

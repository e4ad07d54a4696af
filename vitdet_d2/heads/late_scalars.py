# SPDX-License-Identifier: Apache-2.0
"""Numbers for the event storage that need not wait for the device when they are logged.

A number that a head logs is on the device, and storing it waits for it. Inside `collected` it is
kept as a tensor instead, and whoever opened the block reads all of them at once, at a moment when
it waits anyway. Outside such a block numbers are stored at once, as Detectron2's heads do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from detectron2.utils.events import EventStorage, get_event_storage, has_event_storage
from torch import Tensor

__all__ = ["LateScalars", "collected", "log_scalars", "name_scope"]

_collectors: list[LateScalars] = []
_scopes: list[str] = []


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What one call of `log_scalars` will store.

    Attributes:
        counts: ``(n,)`` float64 on the device.
        scalars: makes named scalars of them.
        prefix: of the names.
    """

    counts: Tensor
    scalars: Callable[[Sequence[float]], Mapping[str, float]]
    prefix: str


class LateScalars:
    """The numbers logged in one block, in their order."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def add(self, entry: _Entry) -> None:
        """Keep one entry; it is not read yet."""
        self._entries.append(entry)

    def values(self) -> Tensor:
        """Return all numbers as ``(n,)`` float64, where the first of them is; nothing waits."""
        if not self._entries:
            return torch.zeros(0, dtype=torch.float64)
        return torch.cat([entry.counts for entry in self._entries])

    def put(self, storage: EventStorage, values: Sequence[float]) -> None:
        """Store the scalars under the storage's current iteration, and forget them.

        Args:
            storage: where to.
            values: what ``values`` returned, read.

        Raises:
            ValueError: another number of values.
        """
        expected = sum(len(entry.counts) for entry in self._entries)
        if len(values) != expected:
            raise ValueError(f"values: expected {expected} numbers, got {len(values)}")
        start = 0
        for entry in self._entries:
            stop = start + len(entry.counts)
            for name, value in entry.scalars(values[start:stop]).items():
                storage.put_scalar(entry.prefix + name, value)
            start = stop
        self._entries.clear()


@contextmanager
def collected() -> Iterator[LateScalars]:
    """Keep what is logged inside the block, for the caller to read once and to ``put``."""
    late = LateScalars()
    _collectors.append(late)
    try:
        yield late
    finally:
        _collectors.remove(late)


@contextmanager
def name_scope(name: str) -> Iterator[None]:
    """Prefix what is logged inside the block, by `log_scalars` or straight to the storage.

    Args:
        name: without the slash; as in Detectron2, that of an inner block replaces it.
    """
    _scopes.append(f"{name}/")
    try:
        if has_event_storage():
            with get_event_storage().name_scope(name):
                yield
        else:
            yield
    finally:
        _scopes.pop()


def log_scalars(
    counts: Tensor | Sequence[Tensor],
    scalars: Callable[[Sequence[float]], Mapping[str, float]],
) -> None:
    """Log scalars that are made of numbers on the device.

    Args:
        counts: ``(n,)``, or ``n`` tensors of one element.
        scalars: given the ``n`` numbers, returns scalars by name; it may leave some out.
    """
    if not isinstance(counts, Tensor):
        counts = torch.stack([count.detach().reshape(()).double() for count in counts])
    counts = counts.detach().double()
    if _collectors:
        _collectors[-1].add(
            _Entry(counts=counts, scalars=scalars, prefix=_scopes[-1] if _scopes else "")
        )
        return
    storage = get_event_storage()
    for name, value in scalars(counts.tolist()).items():
        storage.put_scalar(name, value)

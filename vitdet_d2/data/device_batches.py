# SPDX-License-Identifier: Apache-2.0
"""Batches that are on the device before the model asks for them.

On CUDA the next batch is copied from pinned memory on a stream of its own while the current one is
computed on; images travel as bytes, and are normalised where they arrive. Elsewhere nothing is
done, and nothing is read ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from vitdet_d2.data.batch_tensors import change_tensors, pack_polygons

Batch = TypeVar("Batch")


class Copies(Protocol):
    """A way of copying batches."""

    def start(self, batch: Any) -> Any:
        """Begin to copy a batch, and return what `finish` takes."""

    def finish(self, pending: Any) -> Any:
        """Return the batch, for use in what is queued from now on."""


class CudaCopies:
    """Copies on a stream of their own, which the host never waits for."""

    def __init__(self, device: torch.device) -> None:
        """Make the stream.

        Args:
            device: a CUDA device.
        """
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def start(self, batch: Any) -> tuple[Any, torch.cuda.Event]:
        """Begin to copy a batch."""
        pinned = pin(batch)
        with torch.cuda.stream(self._stream):
            copied = change_tensors(pinned, lambda t: t.to(self._device, non_blocking=True))
            return copied, self._stream.record_event()

    def finish(self, pending: tuple[Any, torch.cuda.Event]) -> Any:
        """Return the batch; the current stream waits for it, the host does not."""
        batch, copied = pending
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)

        def claim(tensor: Tensor) -> Tensor:
            # Otherwise its memory could be given away as soon as it is dropped here.
            tensor.record_stream(stream)
            return tensor

        return change_tensors(batch, claim)


def pin(batch: Any) -> Any:
    """Return a batch in pinned memory, its polygons as tensors too.

    Args:
        batch: on the CPU; what is pinned already is not copied.
    """
    return change_tensors(
        pack_polygons(batch), lambda t: t if t.is_cuda or t.is_pinned() else t.pin_memory()
    )


def copies_to(device: torch.device) -> Copies | None:
    """Return how batches get to a device; None where the model's own copy costs nothing."""
    return CudaCopies(device) if device.type == "cuda" else None


def ahead(batches: Iterable[Any], copies: Copies) -> Iterator[Any]:
    """Yield batches, the next one already on its way.

    An error in reading ahead is raised after the batch before it, where it would have come.

    Args:
        batches: one is read before it is asked for.
        copies: how they get to where they are used.
    """
    iterator = iter(batches)
    end = object()
    batch = next(iterator, end)
    if batch is end:
        return
    pending = copies.start(batch)
    while pending is not end:
        following, failure = end, None
        try:
            batch = next(iterator, end)
            following = end if batch is end else copies.start(batch)
        except Exception as error:
            failure = error
        yield copies.finish(pending)
        if failure is not None:
            raise failure
        pending = following


class DeviceBatches(Generic[Batch]):
    """A loader whose batches are on a device."""

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        """Wrap a loader.

        Args:
            batches: the loader.
            device: where its batches are used.
        """
        self._batches = batches
        self._copies = copies_to(device)

    def __iter__(self) -> Iterator[Batch]:
        if self._copies is None:
            return iter(self._batches)
        return ahead(self._batches, self._copies)

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

# SPDX-License-Identifier: Apache-2.0
"""Small data set wrappers that the loaders are made of."""

from __future__ import annotations

import contextlib
import copy as copy_module
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

__all__ = [
    "AspectRatioGroupedDataset",
    "DatasetFromList",
    "MapDataset",
    "ToIterableDataset",
    "set_default_dataset_from_list_serialize_method",
]

logger = logging.getLogger(__name__)


class _MapIterableDataset(IterableDataset):
    """An iterable data set with a function applied; elements mapped to None are left out."""

    def __init__(self, dataset: IterableDataset, map_func: Callable[[Any], Any]) -> None:
        """Keep both.

        Args:
            dataset: what to iterate.
            map_func: applied to every element.
        """
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)  # a lambda may go to spawned workers too

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        for element in self._dataset:
            mapped = self._map_func(element)
            if mapped is not None:
                yield mapped


class MapDataset(Dataset):
    """A data set with a function applied to its elements.

    An element that the function maps to None is left out of an iterable data set, and is replaced
    by another, drawn at random, in a map-style one.
    """

    def __new__(cls, dataset: Any, map_func: Callable[[Any], Any]) -> Any:
        """Return the iterable kind for an iterable data set."""
        if isinstance(dataset, IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[Any, Callable[[Any], Any]]:
        return self._dataset, self._map_func

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        """Keep both.

        Args:
            dataset: map-style or iterable.
            map_func: applied to every element.
        """
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)  # a lambda may go to spawned workers too
        self._rng = random.Random(42)  # its own: drawing a substitute must not shift other numbers
        self._failed: set[int] = set()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        index = int(idx)
        while True:
            mapped = self._map_func(self._dataset[index])
            if mapped is not None:
                self._failed.discard(index)
                return mapped
            self._failed.add(index)
            left = len(self._dataset) - len(self._failed)
            if left <= 0:
                raise RuntimeError(
                    f"the mapper returned None for all {len(self._dataset)} elements"
                )
            logger.warning("the mapper returned None for element %d; taking another one", index)
            while index in self._failed:
                index = self._rng.randrange(len(self._dataset))


class _PickledList(Sequence[Any]):
    """A list whose elements are pickled into one tensor.

    Forked workers share its pages: unlike Python objects, the bytes have no reference counts
    whose update would copy every page into every worker. Spawned workers share its memory.
    """

    def __init__(self, elements: Sequence[Any]) -> None:
        """Pickle every element.

        Args:
            elements: anything picklable.
        """
        pickled = [pickle.dumps(element, protocol=pickle.HIGHEST_PROTOCOL) for element in elements]
        ends = np.cumsum([len(data) for data in pickled], dtype=np.int64)
        self._ends = torch.from_numpy(ends)
        self._bytes = torch.from_numpy(np.frombuffer(bytearray(b"".join(pickled)), dtype=np.uint8))
        logger.info("%d records take %.2f MiB", len(pickled), len(self._bytes) / 2**20)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, idx: Any) -> Any:
        index = range(len(self))[idx]  # negative indices, and IndexError past the end
        start = self._ends[index - 1].item() if index else 0
        # Our own bytes, written above in this process: not a file from outside.
        return pickle.loads(self._bytes[start : self._ends[index].item()].numpy().data)


_Serialize = Callable[[Sequence[Any]], Sequence[Any]]
_default_serialize: _Serialize = _PickledList


@contextlib.contextmanager
def set_default_dataset_from_list_serialize_method(new: _Serialize) -> Iterator[None]:
    """Change what ``DatasetFromList(..., serialize=True)`` stores lists with, inside a ``with``.

    Args:
        new: makes a sequence of a list, for example one in shared memory.
    """
    global _default_serialize
    previous, _default_serialize = _default_serialize, new
    try:
        yield
    finally:
        _default_serialize = previous


class DatasetFromList(Dataset):
    """A list as a data set, stored as bytes so that loader workers share the memory."""

    def __init__(
        self,
        lst: Sequence[Any],
        copy: bool = True,
        serialize: bool | _Serialize = True,
    ) -> None:
        """Store the list.

        Args:
            lst: the elements.
            copy: return a deep copy of an element (a serialised one is new every time anyway).
            serialize: whether to store bytes instead of objects, or what to store them with.

        Raises:
            TypeError: ``serialize`` is neither a bool nor a callable.
        """
        if not isinstance(serialize, bool) and not callable(serialize):
            raise TypeError(f"serialize must be a bool or a callable, got {serialize!r}")
        self._serialize = serialize is not False
        self._copy = copy
        self._lst = lst
        if self._serialize:
            self._lst = serialize(lst) if callable(serialize) else _default_serialize(lst)

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int) -> Any:
        element = self._lst[idx]
        return copy_module.deepcopy(element) if self._copy and not self._serialize else element


class ToIterableDataset(IterableDataset):
    """A map-style data set, iterated in the order of a sampler and shared out among workers."""

    def __init__(
        self,
        dataset: Dataset,
        sampler: Sampler,
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
    ) -> None:
        """Keep both.

        Args:
            dataset: map-style.
            sampler: cheap to iterate: every worker goes through all of it.
            shard_sampler: give each worker its own part of the indices; False where the sampler
                does so itself.
            shard_chunk_size: how many consecutive indices go to one worker before the next
                worker's turn.

        Raises:
            TypeError: ``dataset`` is iterable already, or ``sampler`` is no Sampler.
        """
        if isinstance(dataset, IterableDataset):
            raise TypeError("ToIterableDataset needs a map-style data set, got an iterable one")
        if not isinstance(sampler, Sampler):
            raise TypeError(f"sampler must be a torch Sampler, got {type(sampler).__name__}")
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info() if self.shard_sampler else None
        for count, index in enumerate(self.sampler):
            turn = count // self.shard_chunk_size
            if worker is None or turn % worker.num_workers == worker.id:
                yield self.dataset[index]


class AspectRatioGroupedDataset(IterableDataset):
    """Batches of wide images and batches of tall ones (square counts as tall): less padding."""

    def __init__(self, dataset: Iterable[dict[str, Any]], batch_size: int) -> None:
        """Start with empty groups.

        Args:
            dataset: samples with ``width`` and ``height``.
            batch_size: how many make a batch.
        """
        self.dataset = dataset
        self.batch_size = batch_size
        # Tall, wide: what an iteration leaves over begins the batches of the next one.
        self._buckets: list[list[dict[str, Any]]] = [[], []]

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for sample in self.dataset:
            wide = int(sample["width"] > sample["height"])
            self._buckets[wide].append(sample)
            if len(self._buckets[wide]) == self.batch_size:
                # Emptied first: the caller may never come back from the yield.
                batch, self._buckets[wide] = self._buckets[wide], []
                yield batch

# SPDX-License-Identifier: Apache-2.0
"""The training loader: Detectron2's batches in Detectron2's order, from any iteration on.

Batches are decided from indices (:mod:`vitdet_d2.data.batch_order`), so that going to iteration
``n`` reads no image; every sample has random numbers of its own
(:mod:`vitdet_d2.data.sample_seed`), so that it is the same one whether the run was interrupted or
not, however many workers there are.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from vitdet_d2.data.batch_order import BatchOrder, Place, is_wide
from vitdet_d2.data.device_batches import Copies, ahead, copies_to, pin
from vitdet_d2.data.load_failures import (
    TIMEOUT_SECONDS,
    UNREADABLE,
    SkipBudget,
    UnreadableImage,
    describe_unreadable,
    record_error,
    worker_error,
)
from vitdet_d2.data.sample_seed import sample_generator, sample_random_state
from vitdet_d2.errors import DataError

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Mapper = Callable[[Any], Any]
Collate = Callable[[list[Any]], Any]

# Records that are tried for one sample. Beyond that, the skip budget is long used up anyway.
MAX_ATTEMPTS = 100


class _Samples(Dataset):
    """Loads places: maps their records with the random numbers that belong to them."""

    def __init__(self, records: Any, mapper: Mapper | None, seed: int) -> None:
        """Keep what to load and how.

        Args:
            records: map-style data set.
            mapper: makes a sample of a record; None for the trainer means another record is taken.
            seed: of the run.
        """
        self.records = records
        self.mapper = mapper
        self.seed = seed

    def __getitem__(self, place: Place) -> tuple[Any, list[UnreadableImage]]:
        """Return the sample, and which images could not be read on the way to it.

        The sample is a ``DataError`` where a record is wrong, or nothing at all can be read: raised
        in a worker, it would come out buried in a traceback.
        """
        try:
            return self._load(place)
        except DataError as error:
            return error, []

    def _load(self, place: Place) -> tuple[Any, list[UnreadableImage]]:
        substitutes = sample_generator(self.seed, place.position, stream=1)
        index, skipped = place.record, []
        for _ in range(MAX_ATTEMPTS):
            record = self.records[index]
            try:
                sample = self._map(record, place.position)
            except UNREADABLE as error:
                skipped.append(describe_unreadable(record, error))
                sample = None
            if sample is not None:
                return sample, skipped
            index = int(substitutes.integers(len(self.records)))
        tried = ", ".join(f"{image.file_name} ({image.reason})" for image in skipped[:3])
        raise DataError(
            f"no training sample came out of {MAX_ATTEMPTS} records: "
            f"{tried or 'the mapper returned None for each'}; check the images' folder"
        )

    def _map(self, record: Any, position: int) -> Any:
        if self.mapper is None:
            return record
        with sample_random_state(self.seed, position):
            try:
                return self.mapper(record)
            except UNREADABLE:
                raise
            except ValueError as error:  # a wrong size or annotation; DataError is one too
                raise record_error(record, error) from error


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """A batch, or the error in its place, and which images could not be read on the way to it."""

    batch: Any
    skipped: list[UnreadableImage]

    def pin_memory(self) -> _Loaded:
        """Return it in pinned memory; called by torch's DataLoader, in a thread of its own."""
        return _Loaded(batch=pin(self.batch), skipped=self.skipped)


class _Collate:
    """Separates the samples of a batch from the failures on the way to them."""

    def __init__(self, collate_fn: Collate | None) -> None:
        """Keep the function.

        Args:
            collate_fn: what a list of samples becomes; None: stays a list.
        """
        self.collate_fn = collate_fn

    def __call__(self, loaded: list[tuple[Any, list[UnreadableImage]]]) -> _Loaded:
        samples = [sample for sample, _ in loaded]
        skipped = [image for _, images in loaded for image in images]
        for sample in samples:
            if isinstance(sample, DataError):
                return _Loaded(batch=sample, skipped=skipped)
        batch = samples if self.collate_fn is None else self.collate_fn(samples)
        return _Loaded(batch=batch, skipped=skipped)


class TrainLoader:
    """An endless, seekable iterable of this process's batches.

    Iterating it again continues after the last batch that was handed out; ``seek(0)`` starts over.
    """

    def __init__(
        self,
        records: Any,
        *,
        mapper: Mapper | None,
        order: BatchOrder,
        seed: int,
        num_workers: int = 0,
        collate_fn: Collate | None = None,
    ) -> None:
        """Start at iteration 0.

        Args:
            records: map-style data set.
            mapper: makes a sample of a record.
            order: of the batches; its sampler was made with ``seed``.
            seed: of order and augmentations.
            num_workers: loader processes; 0: load in this one.
            collate_fn: what a list of samples becomes; None: stays a list.
        """
        self._records = records
        self._mapper = mapper
        self._order = order
        self._seed = seed
        self._num_workers = num_workers
        self._collate = _Collate(collate_fn)
        self._copies: Copies | None = None
        self._iteration = 0
        self._budget = SkipBudget(num_records=len(records))

    def to_device(self, device: torch.device) -> None:
        """Hand out batches that are on a device, from the next ``iter()`` on.

        On CUDA one batch is read ahead; it counts when it is handed out.

        Args:
            device: the model's.
        """
        self._copies = copies_to(device)

    def seek(self, iteration: int) -> None:
        """Make the next ``iter()`` start at a batch.

        Args:
            iteration: how many batches come before it, at least 0.

        Raises:
            ValueError: it is negative.
        """
        if iteration < 0:
            raise ValueError(f"seek: iteration must be at least 0, got {iteration}")
        self._iteration = iteration

    def state(self) -> dict[str, int]:
        """Return where the loader is: ``seed``, and ``samples`` handed out over all processes."""
        per_batch = self._order.batch_size * self._order.world_size
        return {"seed": self._seed, "samples": self._iteration * per_batch}

    def restore(self, state: dict[str, int]) -> None:
        """Take over another run's seed and place.

        Args:
            state: from :meth:`state`, with the same total batch size.

        Raises:
            ValueError: the place is inside a batch, because the total batch size differs.
        """
        per_batch = self._order.batch_size * self._order.world_size
        iteration, rest = divmod(state["samples"], per_batch)
        if rest:
            raise ValueError(
                f"{state['samples']} samples are no multiple of the total batch size {per_batch}; "
                "continue with the batch size of the interrupted run"
            )
        self._seed = state["seed"]
        _set_seed(self._order.sampler, self._seed)
        self.seek(iteration)

    def __iter__(self) -> Iterator[Any]:
        loaded: Iterator[tuple[Any, list[UnreadableImage]]] = self._loaded()
        if self._copies is not None:
            loaded = ahead(loaded, self._copies)
        for batch, skipped in loaded:
            self._budget.add(skipped)
            if isinstance(batch, DataError):
                raise batch
            self._iteration += 1
            yield batch

    def _loaded(self) -> Iterator[tuple[Any, list[UnreadableImage]]]:
        loader: DataLoader = DataLoader(
            _Samples(self._records, self._mapper, self._seed),
            batch_sampler=_Batches(self._order, self._iteration),
            num_workers=self._num_workers,
            collate_fn=self._collate,
            pin_memory=torch.cuda.is_available(),
            timeout=TIMEOUT_SECONDS if self._num_workers else 0,
            # A generator of its own: starting workers must not draw from the trainer's.
            generator=torch.Generator().manual_seed(self._seed % 2**63),
        )
        try:
            for loaded in loader:
                yield loaded.batch, loaded.skipped
        except RuntimeError as error:
            translated = worker_error(error, self._num_workers)
            if translated is error:
                raise
            raise translated from error


class _Batches(Sampler[list[Place]]):
    """A batch order from some batch on, as torch's DataLoader wants it."""

    def __init__(self, order: BatchOrder, start: int) -> None:
        """Keep both.

        Args:
            order: all batches.
            start: how many to leave out.
        """
        self.order = order
        self.start = start

    def __iter__(self) -> Iterator[list[Place]]:
        return self.order.batches(self.start)


def build_detection_train_loader(
    dataset: list[Record] | Dataset,
    *,
    mapper: Mapper | None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    seed: int | None = None,
    sampler: Sampler[int] | None = None,
    collate_fn: Collate | None = None,
) -> TrainLoader:
    """Make the training loader of this process.

    Images that cannot be read are skipped: others, chosen by seed and position, take their places.
    More than one in a thousand (and more than one) is an error that lists them.

    Args:
        dataset: records, or a map-style data set of them.
        mapper: makes a sample of a record.
        total_batch_size: over all processes.
        aspect_ratio_grouping: batch wide images with wide ones, tall with tall ones.
        num_workers: loader processes; 0: load in this one. The batches do not depend on it.
        seed: of order and augmentations; None: the sampler's, else drawn at random, the same in
            all processes (which must then all call this function).
        sampler: the order; None: :class:`TrainingSampler`. One of Detectron2's takes over ``seed``.
        collate_fn: what a list of samples becomes; None: stays a list.

    Raises:
        TypeError: an iterable data set, which cannot be read from the middle.
        ValueError: no records, a batch size that does not divide among the processes, or records
            without width and height while grouping.
        DataError: while iterating: too many unreadable images, or a wrong record.

    Source: batches and order of detectron2 ``build_detection_train_loader`` with the same seed.
    """
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            "the training loader needs a list or a map-style data set, got an IterableDataset; "
            "use detectron2.data.build_detection_train_loader for it"
        )
    if not len(dataset):  # type: ignore[arg-type]
        raise ValueError("the training data set has no records")
    world_size = comm.get_world_size()
    if total_batch_size <= 0 or total_batch_size % world_size:
        raise ValueError(
            f"total_batch_size must be a positive multiple of the {world_size} processes, "
            f"got {total_batch_size}"
        )
    seed = _agree_on_seed(seed, sampler)
    if sampler is None:
        sampler = TrainingSampler(len(dataset), seed=seed)  # type: ignore[arg-type]
    else:
        sampler = copy.copy(sampler)
        _set_seed(sampler, seed)
    order = BatchOrder(
        sampler=sampler,
        batch_size=total_batch_size // world_size,
        rank=comm.get_rank(),
        world_size=world_size,
        groups=_groups(dataset) if aspect_ratio_grouping else None,
    )
    return TrainLoader(
        DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset,
        mapper=mapper,
        order=order,
        seed=seed,
        num_workers=num_workers,
        collate_fn=collate_fn,
    )


def _agree_on_seed(seed: int | None, sampler: Sampler[int] | None) -> int:
    if seed is None:
        seed = getattr(sampler, "_seed", None)
    return int(comm.shared_random_seed() if seed is None else seed)


def _set_seed(sampler: Sampler[int], seed: int) -> None:
    """Give Detectron2's samplers the run's seed; one without a seed has an order of its own."""
    if hasattr(sampler, "_seed"):
        sampler._seed = seed


def _groups(dataset: Any) -> list[bool]:
    return [is_wide(dataset[index]) for index in range(len(dataset))]

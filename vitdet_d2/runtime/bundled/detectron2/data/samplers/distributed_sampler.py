# SPDX-License-Identifier: Apache-2.0
"""Samplers that share one order among all processes.

Training samplers are endless: all processes draw the same stream of indices from one seed, and
process ``r`` of ``w`` takes every ``w``-th of them, starting with the ``r``-th. Sizes and seeds
must therefore agree among the processes.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import Sampler

from vitdet_d2.errors import ArgumentError

__all__ = [
    "InferenceSampler",
    "RandomSubsetTrainingSampler",
    "RepeatFactorTrainingSampler",
    "TrainingSampler",
]

logger = logging.getLogger(__name__)


class _EndlessSampler(Sampler[int]):
    """This process's share of an endless stream made of epochs."""

    def __init__(self, shuffle: bool, seed: int | None) -> None:
        """Agree on a seed.

        Args:
            shuffle: draw a new order for every epoch.
            seed: None: drawn at random, the same in all processes (which must all call this).
        """
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> Tensor:
        """Return one epoch's indices in their unshuffled order."""
        raise NotImplementedError

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)


class TrainingSampler(_EndlessSampler):
    """Every index once per epoch."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """Start at the first epoch.

        Args:
            size: how many elements the data set has.
            shuffle: draw a new order for every epoch.
            seed: None: drawn at random, the same in all processes.

        Raises:
            TypeError: ``size`` is no int.
            ArgumentError: ``size`` is not positive.
        """
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler: size must be an int, got {type(size).__name__}")
        if size <= 0:
            raise ArgumentError(f"TrainingSampler: size must be positive, got {size}")
        super().__init__(shuffle, seed)
        self._size = size

    def _epoch(self, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """Every index of one random subset once per epoch."""

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ) -> None:
        """Draw the subset.

        Args:
            size: how many elements the data set has.
            subset_ratio: the share to use, in (0, 1].
            shuffle: draw a new order for every epoch.
            seed_shuffle: seed of the order; None: drawn at random.
            seed_subset: seed of the choice; None: drawn at random.

        Raises:
            ArgumentError: the ratio is outside (0, 1], or leaves nothing.
        """
        super().__init__(size, shuffle, seed_shuffle)
        if not (0 < subset_ratio <= 1 and int(size * subset_ratio)):
            raise ArgumentError(
                f"subset_ratio must be in (0, 1] and leave at least one of {size} elements, "
                f"got {subset_ratio}"
            )
        generator = torch.Generator()
        generator.manual_seed(comm.shared_random_seed() if seed_subset is None else seed_subset)
        self._subset = torch.randperm(size, generator=generator)[: int(size * subset_ratio)]

    def _epoch(self, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return self._subset


class RepeatFactorTrainingSampler(_EndlessSampler):
    """Indices that occur in an epoch as often as their repeat factor says, on average."""

    def __init__(
        self, repeat_factors: Tensor, *, shuffle: bool = True, seed: int | None = None
    ) -> None:
        """Start at the first epoch.

        Args:
            repeat_factors: ``(N,)``; a factor of 1.3 gives one occurrence, and a second one in
                three of ten epochs.
            shuffle: draw a new order for every epoch.
            seed: None: drawn at random, the same in all processes.
        """
        super().__init__(shuffle, seed)
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict[str, Any]], repeat_thresh: float, sqrt: bool = True
    ) -> Tensor:
        """Return how often each image should occur, from the rarest category in it.

        Args:
            dataset_dicts: the records.
            repeat_thresh: share of the images below which a category counts as rare.
            sqrt: take the square root of threshold / share.

        Returns:
            ``(N,)`` float32, each at least 1.

        Source: LVIS, arXiv 1908.03195, appendix B.2: max over c of max(1, sqrt(t / f(c))).
        """
        categories = [{a["category_id"] for a in d["annotations"]} for d in dataset_dicts]
        num_images = Counter(itertools.chain.from_iterable(categories))
        repeat = {}
        for category, count in sorted(num_images.items()):
            ratio = repeat_thresh / (count / len(dataset_dicts))
            repeat[category] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
        repeated = sum(factor > 1 for factor in repeat.values())
        logger.info("%d of %d categories are repeated", repeated, len(repeat))
        factors = [max((repeat[c] for c in present), default=1.0) for present in categories]
        return torch.tensor(factors, dtype=torch.float32)

    def _epoch(self, generator: torch.Generator) -> Tensor:
        extra = torch.rand(len(self._frac_part), generator=generator) < self._frac_part
        counts = (self._int_part + extra).long()
        return torch.arange(len(counts)).repeat_interleave(counts)


class InferenceSampler(Sampler[int]):
    """Every index exactly once over all processes, each of which takes one contiguous part."""

    def __init__(self, size: int) -> None:
        """Cut out this process's part; the first ones get one more where it does not divide.

        Args:
            size: how many elements the data set has.

        Raises:
            ArgumentError: ``size`` is not positive.
        """
        if size <= 0:
            raise ArgumentError(f"InferenceSampler: size must be positive, got {size}")
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        share, rest = divmod(total_size, world_size)
        begin = rank * share + min(rank, rest)
        return range(begin, begin + share + (rank < rest))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)

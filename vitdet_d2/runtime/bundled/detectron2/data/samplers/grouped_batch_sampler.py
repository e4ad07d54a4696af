# SPDX-License-Identifier: Apache-2.0
"""Batches of indices that belong to one group each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NoReturn

from torch.utils.data import BatchSampler, Sampler

__all__ = ["GroupedBatchSampler"]


class GroupedBatchSampler(BatchSampler):
    """Batches of one group (an aspect ratio, for instance), in the order in which they fill up."""

    def __init__(self, sampler: Sampler[int], group_ids: Sequence[int], batch_size: int) -> None:
        """Start with empty groups.

        Args:
            sampler: yields indices in ``[0, len(group_ids))``.
            group_ids: the group of each index.
            batch_size: how many indices make a batch; what is left over at the end of one
                iteration begins the batches of the next.

        Raises:
            ValueError: ``sampler`` is no Sampler.
        """
        if not isinstance(sampler, Sampler):
            raise ValueError(f"sampler must be a torch Sampler, got {type(sampler).__name__}")
        super().__init__(sampler, batch_size, drop_last=False)
        self.group_ids = [int(group) for group in group_ids]
        self.buffer_per_group: dict[int, list[int]] = {group: [] for group in self.group_ids}

    def __iter__(self) -> Iterator[list[int]]:
        for index in self.sampler:
            group = self.group_ids[index]
            self.buffer_per_group[group].append(index)
            if len(self.buffer_per_group[group]) == self.batch_size:
                batch, self.buffer_per_group[group] = self.buffer_per_group[group], []
                yield batch

    def __len__(self) -> NoReturn:
        raise TypeError(  # which list() takes for an answer
            "GroupedBatchSampler has no length: how many batches fill up depends on the order"
        )

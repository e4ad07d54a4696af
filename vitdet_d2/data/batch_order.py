# SPDX-License-Identifier: Apache-2.0
"""Which records make which batch, decided from indices alone, before anything is loaded.

Vocabulary: a *position* is a place in the endless stream of samples that all processes share
(process ``r`` of ``w`` has the positions ``r, r + w, r + 2 w, ...``); an *index* is a place in the
data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.utils.data import Sampler


class Place(NamedTuple):
    """A sample that is to be loaded."""

    position: int
    record: int  # index of its record in the data set


def is_wide(record: dict[str, Any]) -> bool:
    """Whether an image is wider than high; square ones count as tall, as in Detectron2.

    Args:
        record: with ``width`` and ``height``.

    Raises:
        ValueError: they are missing.
    """
    if "width" not in record or "height" not in record:
        raise ValueError(
            f"aspect_ratio_grouping needs width and height of every record, and "
            f"{record.get('file_name', 'one')} lacks them; add them, or set "
            "aspect_ratio_grouping=False"
        )
    return record["width"] > record["height"]


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """The endless sequence of batches of one process; the same whenever it is iterated.

    With groups, a batch holds samples of one group: a sample waits until its group is full.

    Source: equals detectron2 ``AspectRatioGroupedDataset`` over ``TrainingSampler``, loaded without
        workers or with one (with several, Detectron2 interleaves samples before it groups them).
    """

    sampler: Sampler[int]
    batch_size: int  # of this process
    rank: int
    world_size: int
    groups: Sequence[bool] | None  # per index; None: no grouping

    def places(self) -> Iterator[Place]:
        """Yield what this process loads, in the stream's order."""
        for count, index in enumerate(self.sampler):
            yield Place(self.rank + count * self.world_size, index)

    def batches(self, start: int = 0) -> Iterator[list[Place]]:
        """Yield batches.

        Args:
            start: how many to leave out; costs well below a microsecond per sample.
        """
        for number, batch in enumerate(self._grouped(self.places())):
            if number >= start:
                yield batch

    def _grouped(self, places: Iterable[Place]) -> Iterator[list[Place]]:
        waiting: dict[bool, list[Place]] = {False: [], True: []}
        for place in places:
            group = self.groups is not None and self.groups[place.record]
            waiting[group].append(place)
            if len(waiting[group]) == self.batch_size:
                batch, waiting[group] = waiting[group], []
                yield batch

# SPDX-License-Identifier: Apache-2.0
"""The polygons of many instances as a few tensors, which a device can work on at once.

``G`` instances have ``P`` points in all, in order: the points of a polygon, and the polygons of an
instance, lie one behind the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["PackedPolygons"]

# Far beyond all images, and small enough for exact cell numbers in float64 where a box of a tenth
# of a pixel enlarges coordinates a thousandfold.
_MAX_COORDINATE = 1e8


@dataclass(frozen=True, kw_only=True)
class PackedPolygons:
    """Polygons of ``G`` instances.

    Attributes:
        points: ``(P, 2)`` float64, rows ``(x, y)`` in pixels.
        next_point: ``(P,)`` int64, the other end of the edge that starts at a point.
        polygon: ``(P,)`` int64, which polygon of its instance a point belongs to, from 0.
        first_point: ``(G,)`` int64, where the points of an instance start.
        num_points: ``(G,)`` int64; 0 for an instance without polygons.
        num_polygons: ``(G,)`` int64.
        max_points: the most points of any instance, known without asking the device.
        max_polygons: the most polygons of any instance.
    """

    points: Tensor
    next_point: Tensor
    polygon: Tensor
    first_point: Tensor
    num_points: Tensor
    num_polygons: Tensor
    max_points: int
    max_polygons: int

    def __len__(self) -> int:
        return len(self.num_points)

    @property
    def device(self) -> torch.device:
        """Where the polygons are."""
        return self.points.device

    @classmethod
    def pack(cls, instances: Sequence[Sequence[NDArray[np.float64]]]) -> PackedPolygons:
        """Join polygons, on the CPU.

        Args:
            instances: the polygons of each instance, each a flat ``[x0, y0, x1, y1, ...]`` of at
                least three points; an instance may have none.

        Raises:
            ValueError: a coordinate is NaN, infinite or beyond all images.
        """
        polygons = [polygon for instance in instances for polygon in instance]
        flat = np.concatenate([np.empty(0), *polygons]).astype(np.float64, copy=False)
        # A comparison with NaN is false, so that NaN is refused too.
        if flat.size and not np.abs(flat).max() < _MAX_COORDINATE:
            raise ValueError(
                f"polygons: expected finite coordinates below {_MAX_COORDINATE:.0e}, got some that "
                "are not; check the annotations"
            )
        lengths = np.array([len(polygon) // 2 for polygon in polygons], dtype=np.int64)
        counts = np.array([len(instance) for instance in instances], dtype=np.int64)
        bounds = np.concatenate([[0], np.cumsum(lengths)])  # of the polygons
        owned = np.concatenate([[0], np.cumsum(counts)])  # polygons of the instances
        next_point = np.arange(1, bounds[-1] + 1)
        next_point[bounds[1:] - 1] = bounds[:-1]  # the last point leads back to the first
        rank = np.arange(len(polygons)) - np.repeat(owned[:-1], counts)
        first_point = bounds[owned[:-1]]
        num_points = bounds[owned[1:]] - first_point
        return cls(
            points=torch.from_numpy(flat.reshape(-1, 2)),
            next_point=torch.from_numpy(next_point),
            polygon=torch.from_numpy(np.repeat(rank, lengths)),
            first_point=torch.from_numpy(first_point),
            num_points=torch.from_numpy(num_points),
            num_polygons=torch.from_numpy(counts),
            max_points=int(num_points.max(initial=0)),
            max_polygons=int(counts.max(initial=0)),
        )

    @classmethod
    def cat(cls, parts: Sequence[PackedPolygons]) -> PackedPolygons:
        """Join the instances of several images; nothing waits for the device.

        Args:
            parts: at least one, all on one device.
        """
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.points) for part in parts[:-1])]).tolist()
        pairs = list(zip(parts, starts, strict=True))
        return cls(
            points=torch.cat([part.points for part in parts]),
            next_point=torch.cat([part.next_point + start for part, start in pairs]),
            polygon=torch.cat([part.polygon for part in parts]),
            first_point=torch.cat([part.first_point + start for part, start in pairs]),
            num_points=torch.cat([part.num_points for part in parts]),
            num_polygons=torch.cat([part.num_polygons for part in parts]),
            max_points=max(part.max_points for part in parts),
            max_polygons=max(part.max_polygons for part in parts),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedPolygons:
        """Return the polygons on another device.

        Args:
            device: where to.
            non_blocking: as for ``Tensor.to``; from pinned memory the copy then waits for nothing.
        """
        return self.map(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedPolygons:
        """Return the polygons in page-locked memory of the host, as loaders ask for."""
        return self.map(Tensor.pin_memory)

    def map(self, change: Callable[[Tensor], Tensor]) -> PackedPolygons:
        """Return the polygons with other tensors.

        Args:
            change: called with every tensor; keeps its shape.
        """
        return PackedPolygons(
            points=change(self.points),
            next_point=change(self.next_point),
            polygon=change(self.polygon),
            first_point=change(self.first_point),
            num_points=change(self.num_points),
            num_polygons=change(self.num_polygons),
            max_points=self.max_points,
            max_polygons=self.max_polygons,
        )

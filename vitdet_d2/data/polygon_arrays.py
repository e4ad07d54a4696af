# SPDX-License-Identifier: Apache-2.0
"""All polygons of an image in one array, so that a transform is one operation and not hundreds.

P: points, Q: polygons, N: instances.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform
from numpy.typing import NDArray

from vitdet_d2.geometry.crop_transform import CropTransform
from vitdet_d2.geometry.polygon_clip import clip_polygon, flat_polygons

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class PolygonArrays:
    """The polygons of N instances.

    Attributes:
        points: ``(P, 2)`` float64, polygon after polygon.
        counts: ``(Q,)`` int64, how many points each polygon has, at least one.
        owners: ``(Q,)`` int64, which instance each polygon belongs to, ascending.
    """

    points: Array
    counts: Array
    owners: Array

    @property
    def starts(self) -> Array:
        """``(Q,)``: the place of each polygon's first point."""
        return np.cumsum(self.counts) - self.counts

    def split(self) -> list[Array]:
        """Return each polygon, ``(n, 2)``, sharing memory."""
        return np.split(self.points, self.starts[1:]) if len(self.counts) else []


def pack(instances: Sequence[Sequence[Sequence[float]]]) -> PolygonArrays | None:
    """Join the polygons of instances.

    Args:
        instances: for each its polygons as ``[x0, y0, x1, y1, ...]``, lists or arrays.

    Returns:
        The polygons; None where one has an odd number of coordinates or fewer than three points.
    """
    flat = [polygon for polygons in instances for polygon in polygons]
    counts = np.array([len(polygon) for polygon in flat], dtype=np.int64)
    if (counts % 2).any() or (counts < 6).any():
        return None
    if any(isinstance(polygon, np.ndarray) for polygon in flat):
        points = np.concatenate([np.asarray(polygon, dtype=np.float64) for polygon in flat])
    else:
        points = np.fromiter(chain.from_iterable(flat), np.float64, int(counts.sum()))
    numbers = np.array([len(polygons) for polygons in instances], dtype=np.int64)
    owners = np.repeat(np.arange(len(instances)), numbers)
    return PolygonArrays(points=points.reshape(-1, 2), counts=counts // 2, owners=owners)


def transform_polygons(polygons: PolygonArrays, transforms: Iterable[Transform]) -> PolygonArrays:
    """Apply transforms, as ``apply_polygons`` of each does to one polygon after the other.

    Args:
        polygons: not changed.
        transforms: in their order.
    """
    points = polygons.points.copy()  # Detectron2's transforms write into what they are given
    result = PolygonArrays(points=points, counts=polygons.counts, owners=polygons.owners)
    for transform in transforms:
        if type(transform) is CropTransform:
            result = _crop(result, transform)
        elif type(transform).apply_polygons is Transform.apply_polygons:
            moved = transform.apply_coords(result.points)
            result = PolygonArrays(points=moved, counts=result.counts, owners=result.owners)
        else:
            result = _one_by_one(result, transform)
    return result


def extents(polygons: PolygonArrays) -> tuple[Array, Array]:
    """Return the smallest and the largest coordinates of each polygon, both ``(Q, 2)``."""
    if not len(polygons.counts):
        return np.empty((0, 2)), np.empty((0, 2))
    starts = polygons.starts
    lowest = np.minimum.reduceat(polygons.points, starts, axis=0)
    return lowest, np.maximum.reduceat(polygons.points, starts, axis=0)


def bounding_boxes(polygons: PolygonArrays, num_instances: int) -> Array:
    """Return the tight box of each instance, as ``PolygonMasks.get_bounding_boxes`` gives it.

    Args:
        polygons: all.
        num_instances: N.

    Returns:
        ``(N, 4)`` float32, XYXY; ``(inf, inf, 0, 0)`` for an instance without polygons.
    """
    boxes = np.empty((num_instances, 4))
    boxes[:, :2], boxes[:, 2:] = np.inf, 0.0
    if len(polygons.counts):
        lowest, highest = extents(polygons)
        np.minimum.at(boxes[:, :2], polygons.owners, lowest)
        np.maximum.at(boxes[:, 2:], polygons.owners, highest)
    return boxes.astype(np.float32)


def _crop(polygons: PolygonArrays, crop: CropTransform) -> PolygonArrays:
    """Clip: only the polygons that cross the window's edge are worth a look of their own."""
    if not len(polygons.counts):
        return polygons
    window = np.array((crop.x0, crop.y0, crop.x0 + crop.w, crop.y0 + crop.h), dtype=np.float64)
    origin = window[:2]
    lowest, highest = extents(polygons)
    inside: Array = np.all((lowest >= origin) & (highest <= window[2:]), axis=1)
    outside: Array = np.any((highest <= origin) | (lowest >= window[2:]), axis=1)
    flat = flat_polygons(polygons.points, polygons.starts)
    kept = ~outside & ~(inside & flat)
    if (inside | outside).all():
        points = polygons.points[np.repeat(kept, polygons.counts)]
        return PolygonArrays(
            points=points - origin, counts=polygons.counts[kept], owners=polygons.owners[kept]
        )
    x0, y0, x1, y1 = window.tolist()
    pieces: list[Array] = []
    owners: list[int] = []
    for index, polygon in enumerate(polygons.split()):
        if kept[index]:
            parts = [polygon] if inside[index] else clip_polygon(polygon, (x0, y0, x1, y1))
            pieces += parts
            owners += [int(polygons.owners[index])] * len(parts)
    return _from_pieces([piece - origin for piece in pieces], owners)


def _one_by_one(polygons: PolygonArrays, transform: Transform) -> PolygonArrays:
    """Apply a transform that does more to a polygon than moving its points."""
    pieces: list[Array] = []
    owners: list[int] = []
    for owner in np.unique(polygons.owners).tolist():
        own = [p for p, o in zip(polygons.split(), polygons.owners, strict=True) if o == owner]
        parts = transform.apply_polygons(own)
        pieces += [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in parts]
        owners += [owner] * len(parts)
    return _from_pieces(pieces, owners)


def _from_pieces(pieces: list[Array], owners: list[int]) -> PolygonArrays:
    return PolygonArrays(
        points=np.concatenate([np.empty((0, 2)), *pieces]),
        counts=np.array([len(piece) for piece in pieces], dtype=np.int64),
        owners=np.array(owners, dtype=np.int64),
    )

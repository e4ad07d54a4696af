# SPDX-License-Identifier: Apache-2.0
"""Clip polygons with an axis-aligned window, in numpy.

A polygon is ``(N, 2)`` float64, one row ``(x, y)`` per corner, closed without repeating the first
corner. A window is ``(x0, y0, x1, y1)``, in the polygon's coordinates.

The window is four half planes, applied one after another. Cutting with one line breaks the outline
into chains of inner corners; the points where the outline crosses the line, taken in their order
along the line, are joined two by two. In contrast to Sutherland-Hodgman clipping, a concave polygon
falls into its true pieces, without bridges of zero width along the window, which would make the
bounding box too large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Crossing:
    """One end of a chain, on the cutting line."""

    along: float  # the coordinate along the line
    chain: int
    is_end: bool  # where the outline leaves the half plane, at the chain's end


def clip_polygon(polygon: Polygon, window: tuple[float, float, float, float]) -> list[Polygon]:
    """Return the pieces of a polygon that lie in a window.

    Args:
        polygon: ``(N, 2)``. The area of a self-intersecting one is what the even-odd rule fills.
        window: ``(x0, y0, x1, y1)`` with ``x0 < x1`` and ``y0 < y1``.

    Returns:
        Polygons of positive area, in the same coordinates; none where nothing is left.

    Source: area and extent equal those of shapely's ``polygon.intersection(box)`` for polygons
        that do not cross themselves.
    """
    polygon = np.asarray(polygon, dtype=np.float64)
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    if (high <= window[:2]).any() or (low >= window[2:]).any():
        return []
    pieces = [polygon]
    for axis in (0, 1):
        if low[axis] < window[axis]:
            pieces = [part for p in pieces for part in _cut(p, axis, window[axis], keep_above=True)]
        if high[axis] > window[axis + 2]:
            bound = window[axis + 2]
            pieces = [part for p in pieces for part in _cut(p, axis, bound, keep_above=False)]
    return [piece for piece in pieces if not _is_flat(piece)]


def flat_polygons(points: Polygon, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which polygons enclose nothing, because all of their corners lie on one line.

    Args:
        points: ``(P, 2)``, the corners of all polygons, one after the other.
        starts: ``(Q,)``, the place of each polygon's first corner; none is empty.

    Returns:
        ``(Q,)``.
    """
    counts = np.diff(starts, append=len(points))
    arms = points - np.repeat(points[starts], counts, axis=0)
    lengths = np.abs(arms).sum(axis=1)
    # The first of the longest arms of each polygon.
    is_longest = lengths == np.repeat(np.maximum.reduceat(lengths, starts), counts)
    places = np.flatnonzero(is_longest)
    longest = arms[places[np.searchsorted(places, starts)]]
    across = np.repeat(longest, counts, axis=0)
    cross = np.abs(arms[:, 0] * across[:, 1] - arms[:, 1] * across[:, 0])
    sizes = np.maximum(np.abs(longest).max(axis=1), 1e-12)
    # Relative to the size: coordinates carry rounding errors of about 1e-16 of their value.
    return np.maximum.reduceat(cross, starts) <= 1e-12 * sizes**2


def _is_flat(polygon: Polygon) -> bool:
    return bool(flat_polygons(polygon, np.zeros(1, dtype=np.int64))[0])


def _cut(polygon: Polygon, axis: int, bound: float, *, keep_above: bool) -> list[Polygon]:
    """Keep what lies strictly on one side of the line ``coordinate[axis] == bound``."""
    inside = polygon[:, axis] > bound if keep_above else polygon[:, axis] < bound
    if inside.all():
        return [polygon]
    if not inside.any():
        return []
    chains = _chains(polygon, inside, axis, bound)
    return _join(chains, axis)


def _chains(polygon: Polygon, inside: NDArray[np.bool_], axis: int, bound: float) -> list[Polygon]:
    """Break the outline into runs of inner corners, each with its two crossings at the ends."""
    count = len(polygon)
    entries = np.flatnonzero(inside & ~np.roll(inside, 1))  # first inner corner of each run
    exits = np.flatnonzero(inside & ~np.roll(inside, -1))  # last inner corner of each run
    if exits[0] < entries[0]:  # the run that spans the array's end comes last
        exits = np.roll(exits, -1)
    chains = []
    for first, last in zip(entries.tolist(), exits.tolist(), strict=True):
        run = polygon[np.arange(first, last + 1 + (count if last < first else 0)) % count]
        head = _crossing_point(polygon[first - 1], polygon[first], axis, bound)
        tail = _crossing_point(polygon[last], polygon[(last + 1) % count], axis, bound)
        chains.append(np.concatenate([head[None], run, tail[None]]))
    return chains


def _crossing_point(a: Polygon, b: Polygon, axis: int, bound: float) -> Polygon:
    """Return the point of the edge from ``a`` to ``b`` whose coordinate ``axis`` is ``bound``."""
    point = a + (b - a) * ((bound - a[axis]) / (b[axis] - a[axis]))
    point[axis] = bound  # exactly: no rounding may leave the window
    return point


def _join(chains: list[Polygon], axis: int) -> list[Polygon]:
    """Close chains along the cutting line, pairing neighbouring crossings."""
    if len(chains) == 1:
        return chains
    partner = _pair(chains, axis)
    pieces, left = [], set(range(len(chains)))
    while left:
        # Walk to a chain's far end, over to its partner, along that chain, until back at the start.
        start = min(left)
        piece, chain, at_end = [], start, True
        while chain in left:
            left.remove(chain)
            piece.append(chains[chain] if at_end else chains[chain][::-1])
            chain, arrived_at_end = partner[chain, at_end]
            at_end = not arrived_at_end
        pieces.append(np.concatenate(piece))
    return pieces


def _pair(chains: list[Polygon], axis: int) -> dict[tuple[int, bool], tuple[int, bool]]:
    """Tie every crossing to its neighbour along the line, as (chain, is its end)."""
    other = 1 - axis
    crossings = [
        _Crossing(along=float(chain[-int(is_end), other]), chain=i, is_end=is_end)
        for i, chain in enumerate(chains)
        for is_end in (False, True)
    ]
    crossings.sort(key=lambda c: c.along)
    partner = {}
    for i in range(0, len(crossings), 2):
        # Where the outline touches itself on the line, several crossings share one place: pair an
        # end with a start, so that the pieces keep the outline's direction.
        j = i + 1
        while crossings[j].is_end == crossings[i].is_end and (
            j + 1 < len(crossings) and crossings[j + 1].along == crossings[i + 1].along
        ):
            j += 1
        if crossings[j].is_end != crossings[i].is_end:
            crossings[i + 1], crossings[j] = crossings[j], crossings[i + 1]
        a, b = crossings[i], crossings[i + 1]
        partner[a.chain, a.is_end] = (b.chain, b.is_end)
        partner[b.chain, b.is_end] = (a.chain, a.is_end)
    return partner

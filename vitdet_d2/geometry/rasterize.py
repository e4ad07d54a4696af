# SPDX-License-Identifier: Apache-2.0
"""What boxes show of polygons, as small masks: many boxes at once, with the pixels of pycocotools.

pycocotools draws outlines on a grid five times as fine as the mask. Points are rounded to that
grid. An edge is walked along its longer side, and the other coordinate rounded at every step. Where
a walk passes the centre of a column of pixels, between the fine columns ``5 c + 2`` and
``5 c + 3``, it crosses the column at the higher of the two fine rows. A pixel belongs to the
polygon where an odd number of crossings lies above its centre.

An edge passes a column at most once, and at which step has a closed form; so nothing is walked
here. All numbers are whole numbers in float64, whatever their sign and size, and every operation
rounds as the walk does.

Shapes: ``R`` boxes, ``M`` the side of a mask, ``L`` pairs of a box and an edge of its instance.

Source: pixels equal those of ``pycocotools.mask``'s ``frPyObjects``, ``merge`` and ``decode``, as
detectron2's ``PolygonMasks.crop_and_resize`` uses them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitdet_d2.geometry.packed_polygons import PackedPolygons

__all__ = ["PackedPolygons", "PairCounts", "rasterize_in_boxes"]

# Fine rows and columns per pixel, and the one at whose far side a pixel's centre lies.
_FINE = 5
_CENTER = 2

# A box side counts as at least this many pixels, so that an empty box divides by no zero.
_MIN_SIDE = 0.1


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """Sizes of the work, as numbers of the host.

    Attributes:
        edges: pairs of a box and an edge of its instance, or more.
        polygons: pairs of a box and a polygon of its instance, or more.
    """

    edges: int
    polygons: int

    @classmethod
    def most(cls, polygons: PackedPolygons, num_boxes: int) -> PairCounts:
        """Return what suffices for any choice of instances; nothing waits for the device."""
        return cls(
            edges=num_boxes * polygons.max_points, polygons=num_boxes * polygons.max_polygons
        )


def rasterize_in_boxes(
    polygons: PackedPolygons,
    index: Tensor,
    boxes: Tensor,
    mask_size: int,
    *,
    counts: PairCounts | None = None,
) -> Tensor:
    """Rasterise what each box shows of its instance; nothing waits for the device.

    Args:
        polygons: of ``G`` instances.
        index: ``(R,)`` int64 in ``[0, G)``, the instance of each box.
        boxes: ``(R, 4)`` XYXY in pixels; a side shorter than 0.1 pixels counts as 0.1. One with
            NaN or infinity gets an empty mask.
        mask_size: M.
        counts: at least as many pairs as there are, where the caller knows; it saves work.

    Returns:
        ``(R, M, M)`` bool, the union of the polygons of each box's instance.
    """
    num_boxes = len(index)
    if counts is None:
        counts = PairCounts.most(polygons, num_boxes)
    if counts.edges == 0 or num_boxes == 0:
        return torch.zeros((num_boxes, mask_size, mask_size), dtype=torch.bool, device=boxes.device)
    box, point, valid = _pairs(polygons.num_points[index], counts.edges)
    point = (point + polygons.first_point[index][box]).clamp(max=len(polygons.points) - 1)
    offset, scale = _to_cells(boxes, mask_size)
    ends = torch.stack([polygons.points[point], polygons.points[polygons.next_point[point]]])
    # Truncated towards 0, as a conversion to a whole number does. (2, L, 2): end, pair, x and y.
    ends = (_FINE * ((ends - offset[box]) * scale[box]) + 0.5).trunc()

    num_drawn = polygons.num_polygons[index]
    slot = (num_drawn.cumsum(0) - num_drawn)[box] + polygons.polygon[point]
    slot = slot.clamp(max=counts.polygons - 1)  # of pairs beyond the last
    drawn = _draw(ends, valid, slot, counts.polygons, mask_size)
    owner, _, valid = _pairs(num_drawn, counts.polygons)
    union = torch.zeros((num_boxes, mask_size, mask_size), dtype=torch.int32, device=boxes.device)
    union.index_add_(0, owner, (drawn & valid[:, None, None]).int())
    return (union > 0).transpose(1, 2)  # columns, rows -> rows, columns


def _pairs(counts: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Enumerate the parts of every element.

    Args:
        counts: ``(R,)`` how many parts each has.
        length: of the results; at least the sum.

    Returns:
        ``(length,)`` the element of each part, its number within the element, and whether there is
        one; elements and numbers beyond the last part are in range but mean nothing.
    """
    stops = counts.cumsum(0)
    part = torch.arange(length, device=counts.device)
    owner = torch.searchsorted(stops, part, right=True)
    valid = owner < len(counts)
    owner = owner.clamp(max=len(counts) - 1)
    return owner, part - (stops - counts)[owner], valid


def _to_cells(boxes: Tensor, mask_size: int) -> tuple[Tensor, Tensor]:
    """Return ``(R, 2)`` float64 offset in pixels and cells per pixel, of x and y.

    The quotient is rounded to the boxes' own precision, as Detectron2 does with numpy 2.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    short = sides < _MIN_SIDE
    # Not `mask_size / sides`, which multiplies by the reciprocal, rounded once more.
    ratio = (torch.full_like(sides, mask_size) / torch.where(short, 1, sides)).double()
    return boxes[:, :2].double(), torch.where(short, mask_size / _MIN_SIDE, ratio)


def _draw(ends: Tensor, valid: Tensor, slot: Tensor, num_slots: int, mask_size: int) -> Tensor:
    """Fill polygons.

    Args:
        ends: ``(2, L, 2)`` both ends of edges on the fine grid.
        valid: ``(L,)`` which edges there are.
        slot: ``(L,)`` which drawing each belongs to.
        num_slots: number of drawings.
        mask_size: M.

    Returns:
        ``(num_slots, M, M)`` bool, the second axis are columns.
    """
    column = torch.arange(mask_size, device=ends.device)
    (x0, y0), (x1, y1) = (end.unbind(dim=1) for end in ends)
    fine = (_FINE * column + _CENTER).double()  # (M,)
    passes = (torch.minimum(x0, x1)[:, None] <= fine) & (torch.maximum(x0, x1)[:, None] > fine)
    passes &= valid[:, None]
    size = mask_size + 1  # rows, and one for crossings below all of them
    row = _crossing_row(x0[:, None], y0[:, None], x1[:, None], y1[:, None], fine, mask_size)
    row = torch.where(passes, row, mask_size)  # (L, M)
    cell = ((slot[:, None] * mask_size + column) * size + row.long()).flatten()
    crossings = torch.zeros(num_slots * mask_size * size, dtype=torch.int32, device=ends.device)
    crossings.scatter_add_(0, cell, torch.ones_like(cell, dtype=torch.int32))
    above = crossings.view(num_slots, mask_size, size)[..., :mask_size].cumsum(dim=2)
    return above % 2 == 1


def _crossing_row(
    x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, fine: Tensor, mask_size: int
) -> Tensor:
    """Return the first row of pixels whose centre lies below where an edge passes a column.

    Args:
        x0: of one end on the fine grid.
        y0: of that end.
        x1: of the other end.
        y1: of that end.
        fine: the fine column, beyond which the edge passes over to the next.
        mask_size: M.

    Returns:
        In ``[0, M]``; of edges that pass no column anything, even NaN.
    """
    wide = (x1 - x0).abs() >= (y1 - y0).abs()  # walked along x, else along y
    # Walks go from the lower end up, whichever way the polygon has the edge.
    swap = torch.where(wide, x0 > x1, y0 > y1)
    x0, x1 = torch.where(swap, x1, x0), torch.where(swap, x0, x1)
    y0, y1 = torch.where(swap, y1, y0), torch.where(swap, y0, y1)
    dx, dy = x1 - x0, y1 - y0
    slope = torch.where(wide, dy / dx, dx / dy)

    step = fine - x0  # of a walk along x, the last one before the next column
    before = (y0 + slope * step + 0.5).floor()
    after = (y0 + slope * (step + 1) + 0.5).floor()
    row_of_wide = torch.minimum(before, after)

    # Of a walk along y: the first step beyond the column is one of two next to the exact place,
    # and which one is decided in the rounding of the walk.
    step = ((fine + 0.5 - x0) / slope).round()
    is_beyond = (x0 + slope * step + 0.5 >= fine + 1) == (slope > 0)
    row_of_tall = y0 + torch.where(is_beyond, step - 1, step)

    row = torch.where(wide, row_of_wide, row_of_tall)
    return ((row + _CENTER) / _FINE).floor().clamp(0, mask_size)

# SPDX-License-Identifier: Apache-2.0
"""Axis-aligned boxes, their conventions, and pairwise overlaps.

A box is ``(x1, y1, x2, y2)`` in pixels: continuous coordinates, origin at the image's upper left
corner, so that a box of the whole image is ``(0, 0, width, height)``. N, M: numbers of boxes.

Source: the behaviour of detectron2 ``structures/boxes.py``.
"""

# torch.jit.script compiles no generator expressions, only lists.
# ruff: noqa: C419

from __future__ import annotations

import math
from enum import IntEnum, unique
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch import device as Device  # the name that torch.jit.script knows

RawBoxes = TypeVar("RawBoxes", "list[float]", "tuple[float, ...]", Tensor, np.ndarray)


@unique
class BoxMode(IntEnum):
    """What the numbers of a box mean; the values are stored in data sets."""

    XYXY_ABS = 0  # corners, pixels
    XYWH_ABS = 1  # upper left corner, width, height; pixels
    XYXY_REL = 2  # corners, fractions of the image's size; not converted
    XYWH_REL = 3  # corner and size, fractions of the image's size; not converted
    XYWHA_ABS = 4  # centre, width, height, angle: pixels, degrees counter-clockwise

    @staticmethod
    def convert(box: RawBoxes, from_mode: BoxMode, to_mode: BoxMode) -> RawBoxes:
        """Convert boxes from one convention to another.

        Args:
            box: one box as a list or tuple of numbers, or ``(N, 4)`` (``(N, 5)`` with an angle) as
                an array or tensor; it is not changed.
            from_mode: its convention.
            to_mode: the convention wanted.

        Returns:
            The same kind of object; with equal modes, ``box`` itself.

        Raises:
            ValueError: a box has not 4 (with an angle 5) numbers.
            NotImplementedError: no such conversion; relative boxes would need the image's size.
        """
        if from_mode == to_mode:
            return box
        from_mode, to_mode = BoxMode(from_mode), BoxMode(to_mode)
        conversion = _CONVERSIONS.get((from_mode, to_mode))
        if conversion is None:
            raise NotImplementedError(
                f"BoxMode.convert: {from_mode.name} to {to_mode.name} is not supported; supported: "
                + ", ".join(f"{a.name} to {b.name}" for a, b in _CONVERSIONS)
            )
        # Sequences go through float32 like tensors do, so that a box reads the same either way.
        is_sequence = isinstance(box, (list, tuple))
        rows = torch.tensor([box]) if is_sequence else torch.as_tensor(box)
        width = 5 if from_mode == BoxMode.XYWHA_ABS else 4
        if rows.shape[-1] != width or (is_sequence and rows.dim() != 2):
            raise ValueError(
                f"box: expected {width} numbers per {from_mode.name} box, "
                f"got shape {tuple(rows.shape[is_sequence:])}; give several as an array or tensor"
            )
        result = conversion(rows)
        if isinstance(box, (list, tuple)):
            return type(box)(result[0].tolist())
        return cast(RawBoxes, result.numpy() if isinstance(box, np.ndarray) else result)


def _corner_to_corners(rows: Tensor) -> Tensor:
    return torch.cat([rows[..., :2], rows[..., 2:] + rows[..., :2]], dim=-1)


def _corners_to_corner(rows: Tensor) -> Tensor:
    return torch.cat([rows[..., :2], rows[..., 2:] - rows[..., :2]], dim=-1)


def _rotated_to_corners(rows: Tensor) -> Tensor:
    """Return the upright boxes around rotated ones, computed in float64."""
    center, size, angle = rows.double().split([2, 2, 1], dim=-1)
    radians = angle * (math.pi / 180)
    cosine, sine = radians.cos().abs(), radians.sin().abs()
    extent = cosine * size + sine * size.flip(-1)
    corner = center - extent / 2
    return torch.cat([corner, corner + extent], dim=-1).to(rows.dtype)


def _corner_to_rotated(rows: Tensor) -> Tensor:
    corner, size = rows.double().split(2, dim=-1)
    return torch.cat([corner + size / 2, size, torch.zeros_like(size[..., :1])], -1).to(rows.dtype)


_CONVERSIONS = {
    (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): _corner_to_corners,
    (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): _corners_to_corner,
    (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS): _rotated_to_corners,
    (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS): _corner_to_rotated,
}


class Boxes:
    """N boxes, ``tensor`` of shape ``(N, 4)``, float32.

    Written in the part of Python that ``torch.jit.script`` compiles, indexing and iteration apart.
    """

    tensor: Tensor

    def __init__(self, tensor: Tensor) -> None:
        """Wrap boxes.

        Args:
            tensor: ``(N, 4)``, XYXY in pixels; float32 is shared, anything else (also an array or
                a list of boxes) is converted. Anything empty means no box.

        Raises:
            ValueError: the shape is another one.
        """
        if not isinstance(tensor, Tensor):
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device="cpu")
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.shape[1] != 4:
            raise ValueError(f"Boxes: expected shape (N, 4), got {list(tensor.shape)}")
        self.tensor = tensor

    def clone(self) -> Boxes:
        """Return boxes with memory of their own."""
        return Boxes(self.tensor.clone())

    def to(self, device: Device) -> Boxes:
        """Return the boxes on another device; their type is always float32."""
        return Boxes(self.tensor.to(device=device))

    @property
    def device(self) -> Device:
        """Where the boxes are."""
        return self.tensor.device

    def area(self) -> Tensor:
        """Return ``(N,)``, square pixels; negative where one side is inverted."""
        x1, y1, x2, y2 = self.tensor.unbind(1)
        return (x2 - x1) * (y2 - y1)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Move corners that are outside of an image onto its border.

        The boxes' tensor is replaced, not written to.

        Args:
            box_size: ``(height, width)`` of the image.

        Raises:
            ValueError: a coordinate is NaN or infinite.
        """
        if not torch.isfinite(self.tensor).all():
            raise ValueError("Boxes.clip: the boxes hold NaN or infinite coordinates")
        height, width = box_size
        x, y = self.tensor[:, 0::2].clamp(0, width), self.tensor[:, 1::2].clamp(0, height)
        self.tensor = torch.stack([x, y], dim=2).flatten(1)  # (N, 2, 2) -> (N, 4)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Return ``(N,)``, bool: whether both sides are longer than ``threshold`` pixels."""
        return (self.tensor[:, 2:] - self.tensor[:, :2] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """Tell which boxes lie inside of an image.

        Args:
            box_size: ``(height, width)`` of the image.
            boundary_threshold: pixels by which a box may stick out.

        Returns:
            ``(N,)``, bool.
        """
        height, width = box_size
        x1, y1, x2, y2 = self.tensor.unbind(-1)
        far_enough = (x1 >= -boundary_threshold) & (y1 >= -boundary_threshold)
        return far_enough & (x2 < width + boundary_threshold) & (y2 < height + boundary_threshold)

    def get_centers(self) -> Tensor:
        """Return ``(N, 2)``, rows ``(x, y)``."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list[Boxes]) -> Boxes:
        """Join boxes; the result shares no memory with them.

        Args:
            boxes_list: a list or tuple, may be empty.

        Returns:
            All boxes, in order.

        Raises:
            TypeError: it is no list or tuple of ``Boxes``.
        """
        is_list = isinstance(boxes_list, (list, tuple))
        if not is_list or not all([isinstance(boxes, Boxes) for boxes in boxes_list]):
            raise TypeError(f"Boxes.cat: expected a list of Boxes, got {boxes_list}")
        if len(boxes_list) == 0:
            return cls(torch.empty(0))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]))

    @torch.jit.unused
    def __getitem__(self, item: Any) -> Boxes:
        """Select boxes, by anything that indexes the rows of a tensor; an ``int`` gives one box.

        Raises:
            ValueError: the selection has not four columns.
        """
        selected = self.tensor[item]
        if isinstance(item, int):
            selected = selected[None]
        if selected.dim() != 2:
            raise ValueError(f"Boxes[{item}] is no list of boxes: shape {tuple(selected.shape)}")
        return Boxes(selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    @torch.jit.unused
    def __iter__(self) -> Any:  # script resolves this type too, and knows no iterators
        """Yield each box as ``(4,)``."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return the area that each of N boxes shares with each of M: ``(N, M)``, square pixels."""
    first, second = boxes1.tensor[:, None], boxes2.tensor
    lower = torch.maximum(first[..., :2], second[:, :2])
    upper = torch.minimum(first[..., 2:], second[:, 2:])
    return (upper - lower).clamp_(min=0).prod(dim=2)  # (N, M, 2) -> (N, M)


def _ratio(intersection: Tensor, area: Tensor) -> Tensor:
    """Divide, and say 0 where nothing is shared, also between boxes without area."""
    return torch.where(intersection > 0, intersection / area, intersection.new_zeros(()))


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return intersection over union of each of N boxes with each of M: ``(N, M)``, in [0, 1]."""
    shared = pairwise_intersection(boxes1, boxes2)
    return _ratio(shared, boxes1.area()[:, None] + boxes2.area() - shared)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return how much of each of M boxes lies in each of N: ``(N, M)``, in [0, 1]."""
    return _ratio(pairwise_intersection(boxes1, boxes2), boxes2.area())


def pairwise_point_box_distance(points: Tensor, boxes: Boxes) -> Tensor:
    """Return how far each point is from each side of each box.

    Args:
        points: ``(N, 2)``, rows ``(x, y)``.
        boxes: M boxes.

    Returns:
        ``(N, M, 4)``: distances to the left, top, right and bottom side, all positive inside.
    """
    from_lower = points[:, None] - boxes.tensor[:, :2]
    to_upper = boxes.tensor[:, 2:] - points[:, None]
    return torch.cat([from_lower, to_upper], dim=2)


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """Return intersection over union of boxes one by one.

    Args:
        boxes1: N boxes.
        boxes2: as many.

    Returns:
        ``(N,)``; NaN for two boxes without area.

    Raises:
        ValueError: the numbers of boxes differ.
    """
    if len(boxes1) != len(boxes2):
        raise ValueError(
            f"matched_pairwise_iou: expected as many boxes, got {len(boxes1)} and {len(boxes2)}"
        )
    lower = torch.maximum(boxes1.tensor[:, :2], boxes2.tensor[:, :2])
    upper = torch.minimum(boxes1.tensor[:, 2:], boxes2.tensor[:, 2:])
    shared = (upper - lower).clamp(min=0).prod(dim=1)
    return shared / (boxes1.area() + boxes2.area() - shared)

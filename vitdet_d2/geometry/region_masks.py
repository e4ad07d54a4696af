# SPDX-License-Identifier: Apache-2.0
"""The masks of detections as the network gives them: small squares that cover their boxes.

As bitmaps of the whole image they take a megabyte each, of which nearly everything is 0. This class
makes of them what is wanted: bitmaps to draw, or COCO's run-length code to keep.

Shapes: N masks of M x M cells, an image of H x W pixels, windows of w x h pixels.

Source: equals Detectron2's ``paste_masks_in_image`` on the CPU, pixel for pixel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vitdet_d2.geometry.run_length_code import Window, encode_windows

Array = NDArray[Any]

THRESHOLD = 0.5
# Beyond what two ways of interpolating in fp32 differ by, which grows with the cells of a side.
_DOUBT_PER_CELL = 1e-6
# Pixels in doubt are interpolated again in lines of this many.
_LINE = 16
_HALF = np.float32(0.5)
# Multiplications of one product of matrices. OpenBLAS starts threads for more than 2^18, which wait
# for each other longer than such a product takes.
_MOST_PRODUCTS = 250_000


class RegionMasks:
    """N masks, each of which covers its box; indexed and moved like other fields of instances."""

    def __init__(self, tensor: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> None:
        """Wrap masks.

        Args:
            tensor: ``(N, M, M)`` probabilities; pixels of at least 0.5 belong to the object.
            boxes: ``(N, 4)`` XYXY in pixels, inside of the image.
            image_size: H, W.

        Raises:
            ValueError: the masks are not square, or there are not as many boxes.
        """
        if tensor.dim() != 3 or tensor.shape[1] != tensor.shape[2]:
            raise ValueError(f"tensor: expected square masks (N, M, M), got {tuple(tensor.shape)}")
        if boxes.shape != (len(tensor), 4):
            raise ValueError(f"boxes: expected ({len(tensor)}, 4), got {tuple(boxes.shape)}")
        self.tensor = tensor
        self.boxes = boxes
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, item: Any) -> RegionMasks:
        """Select masks, by a slice, a list or a tensor; an ``int`` gives one mask."""
        if isinstance(item, int):
            item = slice(item, item + 1) if item >= 0 else slice(item, item + 1 or None)
        return RegionMasks(self.tensor[item], self.boxes[item], self.image_size)

    def to(self, *args: Any, **kwargs: Any) -> RegionMasks:
        """Return the masks on another device."""
        tensor, boxes = self.tensor.to(*args, **kwargs), self.boxes.to(*args, **kwargs)
        return RegionMasks(tensor, boxes, self.image_size)

    def paste(self) -> Tensor:
        """Return bitmaps ``(N, H, W)``, bool, on the CPU."""
        # zeros of numpy touch no memory before it is written to
        pasted = np.zeros((len(self), *self.image_size), bool)
        for bitmap, window in zip(pasted, self.windows(), strict=True):
            width, height = window.columns.shape
            rows = slice(window.top, window.top + height)
            bitmap[rows, window.left : window.left + width] = window.columns.T
        return torch.from_numpy(pasted)

    def encode(self) -> list[dict[str, Any]]:
        """Return N run-length codes ``{"size": [H, W], "counts": str}``."""
        return encode_windows(self.windows(), *self.image_size)

    def windows(self) -> list[Window]:
        """Return each mask on the pixels of its box."""
        if not len(self):
            return []
        masks = self.tensor.detach().to("cpu", torch.float32)
        boxes = self.boxes.detach().to("cpu", torch.float32)
        return _Interpolator(masks, boxes, self.image_size).windows()


class _Interpolator:
    """Interpolates by two products of matrices, and what comes too near to the threshold again."""

    def __init__(self, masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> None:
        """Find the windows.

        Args:
            masks: ``(N, M, M)`` fp32 on the CPU.
            boxes: ``(N, 4)`` fp32 on the CPU.
            image_size: H, W.
        """
        self._masks, self._boxes = masks, boxes.numpy()
        self._cells = np.ascontiguousarray(masks.numpy().transpose(0, 2, 1))  # x first
        self._doubt = _DOUBT_PER_CELL * masks.shape[1]
        limits = np.array(image_size[::-1])
        corners = np.nan_to_num(self._boxes, posinf=2**30, neginf=-(2**30)).astype(np.float64)
        # A pixel more on each side: interpolation reaches half a cell beyond the box.
        self._low = np.clip(np.floor(corners[:, :2]) - 1, 0, limits).astype(np.int64)
        high = np.clip(np.ceil(corners[:, 2:]) + 1, 0, limits).astype(np.int64)
        self._sizes = np.maximum(high, self._low) - self._low  # (w, h)

    def windows(self) -> list[Window]:
        """Return each mask on the pixels of its box."""
        across, down = self._weights(0), self._weights(1)
        parts: list[Array] = []
        doubts: list[tuple[Array, ...]] = []
        for number, (cells, x, y) in enumerate(zip(self._cells, across, down, strict=True)):
            values = _product(x, cells, y)  # (w, h)
            parts.append(values >= THRESHOLD + self._doubt)
            doubtful = parts[-1] ^ (values >= THRESHOLD - self._doubt)
            if doubtful.any():
                column, row = np.nonzero(doubtful)
                doubts.append((np.full(len(row), number), column, row))
        if doubts:
            self._resolve(parts, *(np.concatenate(c) for c in zip(*doubts, strict=True)))
        corners = zip(self._low.tolist(), parts, strict=True)
        return [Window(left=left, top=top, columns=part) for (left, top), part in corners]

    def _weights(self, axis: int) -> list[Array]:
        """Return how much of each cell a pixel's centre takes, N of ``(pixels, M)``; 0 outside.

        Args:
            axis: 0 for columns, 1 for rows.
        """
        sizes, cells = self._sizes[:, axis], self._cells.shape[1]
        ends = np.cumsum(sizes)
        pixels = np.arange(sizes.sum()) + np.repeat(self._low[:, axis] - (ends - sizes), sizes)
        start, end = self._boxes[:, axis], self._boxes[:, axis + 2]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            share = (pixels.astype(np.float32) + _HALF) - np.repeat(start, sizes)
            share /= np.repeat(end - start, sizes)
            place = share * np.float32(cells) - _HALF
            weights = np.abs(place[:, None] - np.arange(cells, dtype=np.float32))
        np.subtract(1, weights, out=weights)
        np.maximum(weights, 0, out=weights)
        return np.split(weights, ends[:-1])

    def _resolve(self, parts: list[Array], numbers: Array, columns: Array, rows: Array) -> None:
        """Interpolate single pixels by the operator that Detectron2 uses.

        Args:
            parts: N windows ``(w, h)``; changed in place.
            numbers: the masks of the pixels, ascending.
            columns: of the pixels in their windows.
            rows: of the pixels in their windows.
        """
        first = np.searchsorted(numbers, numbers)
        index = np.arange(len(numbers)) - first
        line = np.cumsum(index % _LINE == 0) - 1
        owners = numbers[index % _LINE == 0]
        grid = np.zeros((len(owners), 1, _LINE, 2), np.float32)
        boxes, low = self._boxes[numbers], self._low[numbers]
        for axis, place in enumerate((columns, rows)):
            start, end = boxes[:, axis], boxes[:, axis + 2]
            share = ((low[:, axis] + place).astype(np.float32) + _HALF - start) / (end - start)
            grid[line, 0, index % _LINE, axis] = share * 2 - 1
        masks = self._masks[torch.from_numpy(owners)][:, None]
        values = F.grid_sample(masks, torch.from_numpy(grid), align_corners=False).numpy()
        inside = values[line, 0, 0, index % _LINE] >= THRESHOLD
        starts = np.unique(first)
        for start, end in zip(starts, np.append(starts[1:], len(numbers)), strict=True):
            at = slice(start, end)
            parts[numbers[start]][columns[at], rows[at]] = inside[at]


def _product(across: Array, cells: Array, down: Array) -> Array:
    """Return ``across @ cells @ down.T``, ``(w, h)``, tile by tile.

    Args:
        across: ``(w, M)``.
        cells: ``(M, M)``.
        down: ``(h, M)``.
    """
    side = math.isqrt(_MOST_PRODUCTS // len(cells))
    values = np.empty((len(across), len(down)), np.float32)
    for left in range(0, len(across), side):
        strip = across[left : left + side] @ cells
        for top in range(0, len(down), side):
            tile = values[left : left + side, top : top + side]
            np.matmul(strip, down[top : top + side].T, out=tile)
    return values

# SPDX-License-Identifier: Apache-2.0
"""Polygons to bitmaps, with the pixels of pycocotools.

A polygon is a flat float64 array ``[x0, y0, x1, y1, ...]`` in pixels with at least three points.
R: boxes, M: side of a mask.

Source: the behaviour of detectron2 ``structures/masks.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from torch import Tensor

# pycocotools multiplies coordinates by 5 and keeps them in 32-bit integers; beyond, it crashes.
MAX_COORDINATE = 1e8
# A box side counts as at least this many pixels, so that an empty box divides by no zero.
MIN_SIDE = 0.1


def polygon_area(x: np.ndarray, y: np.ndarray) -> float:
    """Return the area of a polygon from its corners, by the shoelace formula."""
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    return float(abs((x * next_y - next_x * y).sum()) / 2)


def polygons_to_bitmask(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Rasterise the union of polygons.

    Args:
        polygons: may be empty.
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        ``(height, width)``, bool.
    """
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    masks = _decode(list(polygons), np.concatenate(polygons), (height, width))
    return np.asarray(masks.any(axis=0))


def rasterize_polygons_within_box(
    polygons: Sequence[np.ndarray], box: np.ndarray, mask_size: int
) -> Tensor:
    """Rasterise what a box shows of one instance, at ``mask_size`` cells per side.

    Args:
        polygons: of the instance; they are not changed.
        box: ``(4,)``, XYXY.
        mask_size: M.

    Returns:
        ``(M, M)``, bool.
    """
    return torch.from_numpy(rasterize_instances([polygons], np.asarray(box)[None], mask_size)[0])


def rasterize_instances(
    instances: Sequence[Sequence[np.ndarray]], boxes: np.ndarray, mask_size: int
) -> np.ndarray:
    """Rasterise what each box shows of its instance, all in one pass.

    Every polygon of every box goes into one call of the rasteriser; the loop over boxes is numpy's.

    Args:
        instances: the polygons of R instances, each may be empty.
        boxes: ``(R, 4)``, XYXY.
        mask_size: M.

    Returns:
        ``(R, M, M)``, bool.
    """
    masks = np.zeros((len(instances), mask_size, mask_size), dtype=bool)
    polygons = [polygon for instance in instances for polygon in instance]
    if not polygons:
        return masks
    counts = np.array([len(instance) for instance in instances])
    lengths = np.array([len(polygon) // 2 for polygon in polygons])
    owner_of_point = np.repeat(np.repeat(np.arange(len(instances)), counts), lengths)
    points = np.concatenate(polygons).reshape(-1, 2)  # (points, 2), a copy
    points -= boxes[owner_of_point, :2]
    points *= _cells_per_pixel(boxes, mask_size)[owner_of_point]
    stops = np.cumsum(2 * lengths)
    flat = points.reshape(-1)
    scaled = [flat[stop - 2 * n : stop] for stop, n in zip(stops, lengths, strict=True)]
    crops = _decode(scaled, flat, (mask_size, mask_size))
    first = np.cumsum(counts) - counts
    for nth in range(counts.max()):  # the nth polygon of every instance that has as many
        owners = np.flatnonzero(counts > nth)
        masks[owners] |= crops[first[owners] + nth]
    return masks


def _cells_per_pixel(boxes: np.ndarray, mask_size: int) -> np.ndarray:
    """Return ``(R, 2)``, float64: mask cells per pixel in x and y.

    The quotient is rounded to the boxes' own precision, as Detectron2 does with numpy 2.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    short = sides < MIN_SIDE
    ratios = np.divide(mask_size, np.where(short, 1, sides), dtype=sides.dtype)
    return np.where(short, mask_size / MIN_SIDE, ratios.astype(np.float64))


def _decode(
    polygons: list[np.ndarray], coordinates: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Rasterise polygons one by one.

    Args:
        polygons: P polygons.
        coordinates: all of their coordinates together, any shape.
        size: ``(height, width)``.

    Returns:
        ``(P, height, width)``, bool.

    Raises:
        ValueError: a coordinate is NaN, infinite or so large that pycocotools would crash.
    """
    # A comparison with NaN is false, so that NaN is refused too.
    if not np.abs(coordinates).max() < MAX_COORDINATE:
        raise ValueError(
            f"polygons: expected finite coordinates below {MAX_COORDINATE:.0e}, got some that are "
            "not; check the annotations and the boxes"
        )
    encoded = mask_util.frPyObjects(polygons, *size)
    return mask_util.decode(encoded).transpose(2, 0, 1).view(bool)  # (h, w, P) -> (P, h, w)

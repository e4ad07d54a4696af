# SPDX-License-Identifier: Apache-2.0
"""Images of noise with objects at random places: what a loader gives, without any data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor

# Sides of objects, as shares of the image's: from small to half of it, as in COCO.
_SHARES = (1 / 16, 1 / 2)
_CORNERS = 16  # of a polygon


def noise_images(count: int, size: tuple[int, int], *, channels: int = 3) -> list[dict[str, Any]]:
    """Return inputs of a detector at test.

    Args:
        count: images.
        size: ``(H, W)`` in pixels.
        channels: of an image.

    Returns:
        ``image`` ``(channels, H, W)`` uint8, and its size, the same at every call.
    """
    generator = torch.Generator().manual_seed(0)
    H, W = size
    return [
        {
            "image": torch.randint(
                0, 256, (channels, H, W), dtype=torch.uint8, generator=generator
            ),
            "height": H,
            "width": W,
        }
        for _ in range(count)
    ]


def noise_batch(
    count: int,
    size: tuple[int, int],
    *,
    num_objects: int,
    num_classes: int,
    masks: str | None,
    channels: int = 3,
) -> list[dict[str, Any]]:
    """Return inputs of a detector in training.

    Args:
        count: images.
        size: ``(H, W)`` in pixels.
        num_objects: in every image.
        num_classes: that they are drawn from.
        masks: "polygon", "bitmask", or None for boxes only. Objects are ellipses.
        channels: of an image.

    Returns:
        As `noise_images`, with ``instances``.
    """
    generator = torch.Generator().manual_seed(1)
    inputs = noise_images(count, size, channels=channels)
    for sample in inputs:
        boxes = _boxes(num_objects, size, generator)
        instances = Instances(size)
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.randint(0, num_classes, (num_objects,), generator=generator)
        if masks is not None:
            polygons = PolygonMasks([[ellipse] for ellipse in _ellipses(boxes)])
            instances.gt_masks = polygons if masks == "polygon" else _bitmaps(polygons, size)
        sample["instances"] = instances
    return inputs


def _boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return ``(count, 4)`` XYXY in pixels."""
    scale = torch.tensor([size[1], size[0]], dtype=torch.float32)
    least, most = _SHARES
    sides = (least + (most - least) * torch.rand(count, 2, generator=generator)) * scale
    corner = torch.rand(count, 2, generator=generator) * (scale - sides)
    return torch.cat([corner, corner + sides], dim=1)


def _ellipses(boxes: Tensor) -> list[np.ndarray]:
    """Return the polygon of the ellipse in every box."""
    turn = torch.arange(_CORNERS) * (2 * math.pi / _CORNERS)
    circle = torch.stack([turn.cos(), turn.sin()], dim=1)
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    return list((middle[:, None] + half[:, None] * circle).flatten(1).double().numpy())


def _bitmaps(polygons: PolygonMasks, size: tuple[int, int]) -> BitMasks:
    return BitMasks.from_polygon_masks(polygons, *size)

# SPDX-License-Identifier: Apache-2.0
"""Draw augmentations from the size of an image alone, before any pixel is touched.

Detectron2 transforms the image after every draw, because the next augmentation might look at it.
Most look at its shape only; where that is known, a whole chain can be drawn first and then applied
in one go, without the pixels that a later crop throws away.
"""

from __future__ import annotations

from collections.abc import Sequence

import detectron2.data.transforms as T
import numpy as np
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from vitdet_d2.data.fixed_size_crop import FixedSizeCrop
from vitdet_d2.geometry.crop_transform import CropTransform as ClippingCrop

# Exactly these: a subclass may look at the pixels.
_SHAPE_ONLY = (
    T.RandomFlip,
    T.ResizeScale,
    T.ResizeShortestEdge,
    T.FixedSizeCrop,
    T.RandomCrop,
    FixedSizeCrop,
)
_SAME_SIZE = (HFlipTransform, VFlipTransform, NoOpTransform)
CROPS = (CropTransform, ClippingCrop)
RESIZE = T.ResizeTransform


def draw_from_shape(
    augmentations: Sequence[T.Augmentation], size: tuple[int, int]
) -> tuple[list[Transform], int]:
    """Draw the first augmentations that need no pixels, with Detectron2's random numbers.

    Args:
        augmentations: in their order.
        size: ``(height, width)`` of the image before them.

    Returns:
        Their transforms, flattened, and how many augmentations that were. After a transform whose
        result has a size that is not known here, no further augmentation is drawn.
    """
    drawn: list[Transform] = []
    shape: tuple[int, int] | None = size
    for count, augmentation in enumerate(augmentations):
        if shape is None or type(augmentation) not in _SHAPE_ONLY:
            return drawn, count
        # One byte, seen as a whole image.
        stand_in = np.broadcast_to(np.uint8(0), (*shape, 3))
        for transform in TransformList([augmentation.get_transform(stand_in)]).transforms:
            drawn.append(transform)
            shape = None if shape is None else _size_after(transform, shape)
    return drawn, len(augmentations)


def _size_after(transform: Transform, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return ``(height, width)`` of a transformed image; None for unknown transforms."""
    if type(transform) in _SAME_SIZE:
        return size
    if type(transform) is RESIZE:
        return transform.new_h, transform.new_w
    if type(transform) in CROPS:
        x0, y0, x1, y1 = window_of(transform, size)
        return y1 - y0, x1 - x0
    return None


def window_of(crop: Transform, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the part of an image that a crop keeps.

    Args:
        crop: of one of the types `CROPS`.
        size: ``(height, width)`` before it.

    Returns:
        ``(x0, y0, x1, y1)``, within the image.
    """
    rows = range(size[0])[int(crop.y0) : int(crop.y0) + int(crop.h)]
    columns = range(size[1])[int(crop.x0) : int(crop.x0) + int(crop.w)]
    return columns.start, rows.start, columns.stop, rows.stop

# SPDX-License-Identifier: Apache-2.0
"""A random window around an object."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from vitdet_d2.errors import ArgumentError


def gen_crop_transform_with_instance(
    crop_size: tuple[int, int], image_size: tuple[int, int], instance: dict[str, Any]
) -> T.Transform:
    """Draw a window that holds the centre of an object.

    Args:
        crop_size: ``(height, width)`` of the window.
        image_size: ``(height, width)`` of the image.
        instance: an annotation, of which ``bbox`` and ``bbox_mode`` are used.

    Returns:
        The crop.

    Raises:
        ArgumentError: the centre is outside of the image, or the window is larger than the image.
    """
    x0, y0, x1, y1 = BoxMode.convert(
        list(instance["bbox"]), instance["bbox_mode"], BoxMode.XYXY_ABS
    )
    center = np.array([y0 + y1, x0 + x1]) * 0.5
    size, window = np.array(image_size), np.array(crop_size)
    if (center > size).any():
        raise ArgumentError(f"the centre of {instance['bbox']} is outside of {image_size}")
    if (window > size).any():
        raise ArgumentError(f"a window of {crop_size} does not fit an image of {image_size}")
    low = np.maximum(np.floor(center).astype(int) - window, 0)
    high = np.minimum(size - window, np.ceil(center).astype(int))
    top, left = (int(np.random.randint(a, b + 1)) for a, b in zip(low, high, strict=True))
    return T.CropTransform(left, top, int(window[1]), int(window[0]))

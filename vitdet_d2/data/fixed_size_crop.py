# SPDX-License-Identifier: Apache-2.0
"""Detectron2's crop of fixed size, which clips polygons without shapely on both runtimes."""

from __future__ import annotations

from typing import Any

import detectron2.data.transforms as T
import numpy.typing as npt
from fvcore.transforms.transform import TransformList

from vitdet_d2.geometry.crop_transform import CropTransform

Array = npt.NDArray[Any]


class FixedSizeCrop(T.FixedSizeCrop):
    """Drop-in replacement of ``detectron2.data.transforms.FixedSizeCrop``: same arguments, draws.

    With an installed Detectron2 the original clips polygons through fvcore, which needs shapely.
    """

    def get_transform(self, image: Array) -> TransformList:
        """Draw a position, as the original does.

        Args:
            image: ``(H, W)`` or ``(H, W, C)``.
        """
        transforms = super().get_transform(image).transforms
        return TransformList(
            [_clipping(t) if isinstance(t, T.CropTransform) else t for t in transforms]
        )


def _clipping(crop: T.CropTransform) -> CropTransform:
    return CropTransform(crop.x0, crop.y0, crop.w, crop.h, crop.orig_w, crop.orig_h)

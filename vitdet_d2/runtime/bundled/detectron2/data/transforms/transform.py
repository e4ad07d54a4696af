# SPDX-License-Identifier: Apache-2.0
"""Deterministic transforms beyond fvcore's.

Images are ``(H, W)`` or ``(H, W, C)``, uint8 in 0-255 or floating point. Coordinates are
``(N, 2)`` arrays of ``(x, y)``, continuous: the image covers ``[0, W] x [0, H]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fvcore.transforms.transform import NoOpTransform, Transform
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from vitdet_d2.errors import ArgumentError
from vitdet_d2.geometry.crop_transform import CropTransform

__all__ = [
    "ColorTransform",
    "CropTransform",
    "ExtentTransform",
    "PILColorTransform",
    "ResizeTransform",
]

Array = NDArray[Any]

_TORCH_MODES = {
    Image.Resampling.NEAREST: "nearest",
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


class ExtentTransform(Transform):
    """Cut a rectangle out of an image, which may stick out of it, and resize it with Pillow."""

    def __init__(
        self,
        src_rect: tuple[float, float, float, float],
        output_size: tuple[int, int],
        interp: Image.Resampling = Image.Resampling.BILINEAR,
        fill: int = 0,
    ) -> None:
        """Keep the rectangle.

        Args:
            src_rect: ``(x0, y0, x1, y1)`` in the image.
            output_size: ``(height, width)`` of the result.
            interp: Pillow's interpolation; there is no antialiasing.
            fill: what is outside of the image.
        """
        super().__init__()
        self.src_rect = src_rect
        self.output_size = output_size
        self.interp = Image.Resampling(interp)
        self.fill = fill

    def apply_image(self, img: Array, interp: Image.Resampling | None = None) -> Array:
        """Cut and resize.

        Args:
            img: ``(H, W)`` or ``(H, W, C)`` uint8.
            interp: instead of the interpolation given at construction.
        """
        height, width = self.output_size
        single = img.ndim == 3 and img.shape[2] == 1
        result = np.asarray(
            Image.fromarray(img[:, :, 0] if single else img).transform(
                (width, height),
                Image.Transform.EXTENT,
                self.src_rect,
                resample=self.interp if interp is None else Image.Resampling(interp),
                fillcolor=self.fill if img.ndim == 2 or single else (self.fill,) * img.shape[2],
            )
        )
        return result[:, :, None] if single else result

    def apply_coords(self, coords: Array) -> Array:
        """Move and scale ``(N, 2)`` points."""
        x0, y0, x1, y1 = self.src_rect
        height, width = self.output_size
        scale = np.array([width / (x1 - x0), height / (y1 - y0)])
        return (coords - np.array([x0, y0])) * scale

    def apply_segmentation(self, segmentation: Array) -> Array:
        """Cut and resize ``(H, W)`` labels with nearest-neighbour interpolation."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)


class ResizeTransform(Transform):
    """Resize an image: 8-bit ones with Pillow (antialiased), others with torch (not so)."""

    def __init__(
        self, h: int, w: int, new_h: int, new_w: int, interp: Image.Resampling | None = None
    ) -> None:
        """Keep the sizes.

        Args:
            h: height before.
            w: width before.
            new_h: height after.
            new_w: width after.
            interp: Pillow's interpolation; None: bilinear.
        """
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.Resampling.BILINEAR if interp is None else Image.Resampling(interp)

    def apply_image(self, img: Array, interp: Image.Resampling | None = None) -> Array:
        """Resize ``(H, W)`` or ``(H, W, C)``.

        Args:
            img: of the size given at construction.
            interp: instead of the interpolation given at construction.

        Raises:
            ArgumentError: the image has another size.
        """
        if img.shape[:2] != (self.h, self.w):
            raise ArgumentError(
                f"ResizeTransform was made for an image of {self.h} x {self.w}, "
                f"got one of shape {img.shape}"
            )
        mode = self.interp if interp is None else Image.Resampling(interp)
        if img.dtype == bool:
            return self._resize_uint8(img.view(np.uint8), mode).view(bool)
        if img.dtype == np.uint8:
            return self._resize_uint8(img, mode)
        return self._resize_float(img, mode)

    def _resize_uint8(self, img: Array, mode: Image.Resampling) -> Array:
        single = img.ndim == 3 and img.shape[2] == 1
        picture = Image.fromarray(img[:, :, 0] if single else img)
        resized = np.asarray(picture.resize((self.new_w, self.new_h), mode))
        return resized[:, :, None] if single else resized

    def _resize_float(self, img: Array, mode: Image.Resampling) -> Array:
        if mode not in _TORCH_MODES:
            raise ValueError(
                f"interpolation {mode!r} is not available for {img.dtype} images; "
                "use NEAREST, BILINEAR or BICUBIC, or an 8-bit image"
            )
        name = _TORCH_MODES[mode]
        planes = torch.from_numpy(np.ascontiguousarray(img)).reshape(self.h, self.w, -1)
        resized = interpolate(
            planes.permute(2, 0, 1)[None],  # (H, W, C) -> (1, C, H, W)
            (self.new_h, self.new_w),
            mode=name,
            align_corners=None if name == "nearest" else False,
        )
        return resized[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_coords(self, coords: Array) -> Array:
        """Scale ``(N, 2)`` points; whole numbers become floating point instead of being cut."""
        return coords * np.array([self.new_w / self.w, self.new_h / self.h])

    def apply_segmentation(self, segmentation: Array) -> Array:
        """Resize ``(H, W)`` labels with nearest-neighbour interpolation."""
        return self.apply_image(segmentation, interp=Image.Resampling.NEAREST)

    def inverse(self) -> ResizeTransform:
        """Return the transform back to the old size."""
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class ColorTransform(Transform):
    """Apply a function to the pixels; coordinates and labels stay."""

    def __init__(self, op: Callable[[Any], Any]) -> None:
        """Keep the function.

        Args:
            op: maps an image array to one of the same size.

        Raises:
            ValueError: ``op`` cannot be called.
        """
        if not callable(op):
            raise ValueError(f"op must be callable, got {op!r}")
        super().__init__()
        self.op = op

    def apply_image(self, img: Array) -> Array:
        """Return ``op(img)``."""
        return self.op(img)

    def apply_coords(self, coords: Array) -> Array:
        """Return the points as they are."""
        return coords

    def apply_segmentation(self, segmentation: Array) -> Array:
        """Return the labels as they are."""
        return segmentation

    def inverse(self) -> Transform:
        """Return a transform that changes nothing: colours are not restored."""
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """Apply a function of Pillow images to the pixels."""

    def apply_image(self, img: Array) -> Array:
        """Return ``op`` of the image as Pillow sees it."""
        return np.asarray(self.op(Image.fromarray(img)))

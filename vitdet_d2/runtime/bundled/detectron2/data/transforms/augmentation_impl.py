# SPDX-License-Identifier: Apache-2.0
"""The augmentations that move pixels; those of colour are in ``augmentation_colour``.

All draw from numpy's global generator, in Detectron2's order, so that the same seed gives the same
images. Sizes are pixels, ``(height, width)``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from detectron2.data.transforms.augmentation import AugInput, Augmentation, _transform_to_aug
from detectron2.data.transforms.augmentation_colour import (
    RandomBrightness,
    RandomContrast,
    RandomLighting,
    RandomSaturation,
)
from detectron2.data.transforms.transform import CropTransform, ExtentTransform, ResizeTransform
from fvcore.transforms.transform import (
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from numpy.typing import NDArray
from PIL import Image

from vitdet_d2.errors import ArgumentError

__all__ = [
    "FixedSizeCrop",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomExtent",
    "RandomFlip",
    "RandomLighting",
    "RandomResize",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]

Array = NDArray[Any]
BILINEAR = Image.Resampling.BILINEAR


class RandomApply(Augmentation):
    """Another augmentation, with a probability."""

    def __init__(self, tfm_or_aug: Transform | Augmentation, prob: float = 0.5) -> None:
        """Keep both.

        Args:
            tfm_or_aug: what to apply.
            prob: how often, in [0, 1].

        Raises:
            ArgumentError: the probability is outside [0, 1].
        """
        if not 0.0 <= prob <= 1.0:
            raise ArgumentError(f"prob must be in [0, 1], got {prob}")
        self.tfm_or_aug = tfm_or_aug
        self.aug = _transform_to_aug(tfm_or_aug)
        self.prob = prob

    def get_transform(self, *args: Any) -> Transform:
        """Decide whether, and return the transform (or one that changes nothing)."""
        return self.aug.get_transform(*args) if self._rand_range() < self.prob else NoOpTransform()

    def __call__(self, aug_input: AugInput) -> Transform:
        """Decide whether, and apply it."""
        return self.aug(aug_input) if self._rand_range() < self.prob else NoOpTransform()


class RandomFlip(Augmentation):
    """Mirror the image, with a probability."""

    def __init__(
        self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False
    ) -> None:
        """Choose the direction.

        Args:
            prob: how often.
            horizontal: swap left and right.
            vertical: swap top and bottom; exactly one of the two.

        Raises:
            ArgumentError: both directions, or none.
        """
        if horizontal == vertical:
            raise ArgumentError(
                "RandomFlip needs exactly one of horizontal and vertical; use two for both, "
                f"got horizontal={horizontal}, vertical={vertical}"
            )
        self.prob = prob
        self.horizontal = horizontal
        self.vertical = vertical

    def get_transform(self, image: Array) -> Transform:
        """Decide whether to mirror."""
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resize to one size, whatever the aspect ratio."""

    def __init__(self, shape: int | Sequence[int], interp: Image.Resampling = BILINEAR) -> None:
        """Keep the size.

        Args:
            shape: ``(h, w)``, or one number for both.
            interp: Pillow's interpolation.
        """
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.interp = interp

    def get_transform(self, image: Array) -> Transform:
        """Return the resize."""
        height, width = image.shape[:2]
        return ResizeTransform(height, width, self.shape[0], self.shape[1], self.interp)


class RandomResize(Augmentation):
    """Resize to one of several sizes."""

    def __init__(
        self, shape_list: Sequence[Sequence[int]], interp: Image.Resampling = BILINEAR
    ) -> None:
        """Keep the sizes.

        Args:
            shape_list: ``(h, w)`` each.
            interp: Pillow's interpolation.
        """
        self.shape_list = [tuple(shape) for shape in shape_list]
        self.interp = interp

    def get_transform(self, image: Array) -> Transform:
        """Choose a size."""
        new_h, new_w = self.shape_list[np.random.randint(low=0, high=len(self.shape_list))]
        return ResizeTransform(image.shape[0], image.shape[1], new_h, new_w, self.interp)


class ResizeShortestEdge(Augmentation):
    """Resize so that the shorter side has a given length and the longer one stays in a limit.

    Deployed models script ``get_output_shape``, for which ``torch.jit.script`` reads the whole
    class: hence the decorators, and types that it knows.
    """

    @torch.jit.unused
    def __init__(
        self,
        short_edge_length: Any,
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: Any = BILINEAR,
    ) -> None:
        """Keep the lengths.

        Args:
            short_edge_length: one length; or several: with ``range``, the smallest and the largest
                to draw from, with ``choice``, all there are. A drawn 0 leaves the image as it is.
            max_size: limit of the longer side; wins over the shorter side's length.
            sample_style: how to draw, ``range`` or ``choice``.
            interp: Pillow's interpolation.

        Raises:
            ArgumentError: unknown style, or a range that is not two numbers.
        """
        if sample_style not in ("range", "choice"):
            raise ArgumentError(f"sample_style must be 'range' or 'choice', got {sample_style!r}")
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        self.is_range = sample_style == "range"
        if self.is_range and len(short_edge_length) != 2:
            raise ArgumentError(
                f"short_edge_length must be (smallest, largest) with sample_style='range', "
                f"got {short_edge_length}"
            )
        self.short_edge_length = tuple(short_edge_length)
        self.max_size = max_size
        self.sample_style = sample_style
        self.interp = interp

    @torch.jit.unused
    def get_transform(self, image: Any) -> Any:
        """Draw a length for an image ``(H, W, ...)``, and return the ``Transform``."""
        lengths = self.short_edge_length
        # Two ends to draw between, both included, or the choices themselves.
        drawn = np.random.randint(lengths[0], lengths[1] + 1) if self.is_range else None
        shortest = int(np.random.choice(lengths) if drawn is None else drawn)
        if not shortest:
            return NoOpTransform()
        height, width = image.shape[:2]
        new_hw = self.get_output_shape(height, width, shortest, self.max_size)
        return ResizeTransform(height, width, *new_hw, self.interp)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        """Return the ``(height, width)`` that an image gets.

        Args:
            oldh: height before.
            oldw: width before.
            short_edge_length: wanted length of the shorter side.
            max_size: limit of the longer side.
        """
        # In this order of operations: another one rounds some sizes differently.
        size = float(short_edge_length)
        scale = size / min(oldh, oldw)
        height, width = (size, scale * oldw) if oldh < oldw else (scale * oldh, size)
        if max(height, width) > max_size:
            shrink = max_size * 1.0 / max(height, width)
            height, width = height * shrink, width * shrink
        return int(height + 0.5), int(width + 0.5)


class ResizeScale(Augmentation):
    """Resize to fit a box of random scale, keeping the aspect ratio: first half of LSJ."""

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: Image.Resampling = BILINEAR,
    ) -> None:
        """Keep the box.

        Args:
            min_scale: smallest factor of the box.
            max_scale: largest factor of the box.
            target_height: the box at factor 1.
            target_width: the box at factor 1.
            interp: Pillow's interpolation.

        Source: large-scale jittering, arXiv 2012.07177, section 4.1.
        """
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.target_height = target_height
        self.target_width = target_width
        self.interp = interp

    def get_transform(self, image: Array) -> Transform:
        """Draw a factor."""
        factor = np.random.uniform(self.min_scale, self.max_scale)
        height, width = image.shape[:2]
        scale = min(self.target_height * factor / height, self.target_width * factor / width)
        # numpy's rounding (half to even), as in Detectron2
        new_h, new_w = np.round((height * scale, width * scale)).astype(int).tolist()
        # A factor of almost nothing on a very long image must still leave a pixel.
        return ResizeTransform(height, width, max(new_h, 1), max(new_w, 1), self.interp)


class FixedSizeCrop(Augmentation):
    """Cut out a random window; smaller images are padded at the right and bottom, or left so."""

    def __init__(
        self,
        crop_size: Sequence[int],
        pad: bool = True,
        pad_value: float = 128.0,
        seg_pad_value: int = 255,
    ) -> None:
        """Keep the window's size.

        Args:
            crop_size: ``(height, width)``.
            pad: fill smaller images up to the window.
            pad_value: what images are filled with.
            seg_pad_value: what labels are filled with.
        """
        self.crop_size = tuple(crop_size)
        self.pad = pad
        self.pad_value = pad_value
        self.seg_pad_value = seg_pad_value

    def get_transform(self, image: Array) -> TransformList:
        """Draw a position (one number for both directions)."""
        size = np.array(image.shape[:2])
        window = np.array(self.crop_size)
        spare = np.maximum(size - window, 0)
        y0, x0 = np.round(spare * np.random.uniform(0.0, 1.0)).astype(int).tolist()
        height, width = size.tolist()
        crop_h, crop_w = window.tolist()
        transforms: list[Transform] = [CropTransform(x0, y0, crop_w, crop_h, width, height)]
        if self.pad:
            pad_h, pad_w = np.maximum(window - size, 0).tolist()
            kept_h, kept_w = np.minimum(size, window).tolist()
            transforms.append(
                PadTransform(0, 0, pad_w, pad_h, kept_w, kept_h, self.pad_value, self.seg_pad_value)
            )
        return TransformList(transforms)


class RandomCrop(Augmentation):
    """Cut out a random window of fixed or random size."""

    def __init__(
        self,
        crop_type: Literal["relative_range", "relative", "absolute", "absolute_range"],
        crop_size: Sequence[float],
    ) -> None:
        """Keep the kind of window.

        Args:
            crop_type: ``relative``: a share of both sides; ``relative_range``: a share drawn
                between the given one and 1; ``absolute``: pixels, at most the image;
                ``absolute_range``: both sides drawn between two lengths.
            crop_size: ``(height, width)``, or for ``absolute_range`` ``(smallest, largest)``.

        Raises:
            ArgumentError: unknown type, or a range that ends before it begins.
        """
        kinds = ("relative_range", "relative", "absolute", "absolute_range")
        if crop_type not in kinds:
            raise ArgumentError(f"crop_type must be one of {kinds}, got {crop_type!r}")
        if crop_type == "absolute_range" and crop_size[0] > crop_size[1]:
            raise ArgumentError(f"crop_size must be (smallest, largest), got {crop_size}")
        self.crop_type = crop_type
        self.crop_size = tuple(crop_size)

    def get_transform(self, image: Array) -> Transform:
        """Draw a size and a position."""
        height, width = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((height, width))
        y0 = np.random.randint(height - crop_h + 1)
        x0 = np.random.randint(width - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the window's ``(height, width)`` for an image's ``(height, width)``."""
        h, w = image_size
        if self.crop_type in ("relative", "relative_range"):
            share = np.asarray(self.crop_size, dtype=np.float64)
            if self.crop_type == "relative_range":
                share = share.astype(np.float32)  # as in Detectron2: decides the rounding
                share = share + np.random.rand(2) * (1 - share)
            return int(h * share[0] + 0.5), int(w * share[1] + 0.5)
        low, high = (int(v) for v in self.crop_size)
        if self.crop_type == "absolute":
            return min(low, h), min(high, w)
        crop_h = np.random.randint(min(h, low), min(h, high) + 1)
        return crop_h, np.random.randint(min(w, low), min(w, high) + 1)


class RandomExtent(Augmentation):
    """Cut out a random rectangle, which may stick out of the image: there it is black.

    The result is as large as the rectangle.
    """

    def __init__(self, scale_range: Sequence[float], shift_range: Sequence[float]) -> None:
        """Keep the ranges.

        Args:
            scale_range: smallest and largest size of the rectangle, in sizes of the image.
            shift_range: how far, in widths and heights of the image, the rectangle's centre may
                lie from the image's: up to half of these, to either side.
        """
        self.scale_range = tuple(scale_range)
        self.shift_range = tuple(shift_range)

    def get_transform(self, image: Array) -> Transform:
        """Draw a size, then the horizontal and the vertical shift."""
        size = np.array([image.shape[1], image.shape[0]], dtype=np.float64)  # (width, height)
        half = size / 2 * np.random.uniform(self.scale_range[0], self.scale_range[1])
        shift = np.array([np.random.rand() - 0.5, np.random.rand() - 0.5])
        center = size / 2 + np.array(self.shift_range) * size * shift
        x0, y0 = (center - half).tolist()
        x1, y1 = (center + half).tolist()
        return ExtentTransform((x0, y0, x1, y1), (int(y1 - y0), int(x1 - x0)))

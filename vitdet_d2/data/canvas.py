# SPDX-License-Identifier: Apache-2.0
"""An image that a chain of transforms is applied to in one go.

Both kinds take flips, resizing and crops; a crop right after a resizing is done with it. H, W: the
image's height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from fvcore.transforms.transform import HFlipTransform, NoOpTransform, Transform, VFlipTransform
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitdet_d2.data.resize_window import Size, Window, resize_pillow, resize_tensor
from vitdet_d2.data.shape_draws import CROPS, RESIZE, window_of

_FLIPS = (HFlipTransform, VFlipTransform)
_KNOWN = (*_FLIPS, *CROPS, RESIZE, NoOpTransform)


class Canvas(Protocol):
    """An RGB image of 8 bits per channel; the operations return another one."""

    @property
    def size(self) -> Size:
        """``(H, W)``."""

    def flip(self, *, horizontally: bool) -> Canvas:
        """Mirror, left to right or top to bottom."""

    def resize(self, size: Size, window: Window, interp: Image.Resampling) -> Canvas:
        """Resize, and keep a window of the result."""

    def crop(self, window: Window) -> Canvas:
        """Keep a window."""

    def array(self) -> NDArray[np.uint8]:
        """``(H, W, 3)``, which must not be written to."""

    def tensor(self) -> Tensor:
        """``(3, H, W)`` uint8, in memory of its own, in which the channels lie side by side."""


class PillowCanvas:
    """Detectron2's pixels, bit for bit."""

    def __init__(self, image: Image.Image) -> None:
        """Wrap an image.

        Args:
            image: of mode RGB.
        """
        self._image = image

    @property
    def size(self) -> Size:
        """``(H, W)``."""
        return self._image.height, self._image.width

    def flip(self, *, horizontally: bool) -> PillowCanvas:
        """Mirror."""
        method = (
            Image.Transpose.FLIP_LEFT_RIGHT if horizontally else Image.Transpose.FLIP_TOP_BOTTOM
        )
        return PillowCanvas(self._image.transpose(method))

    def resize(self, size: Size, window: Window, interp: Image.Resampling) -> PillowCanvas:
        """Resize, and keep a window of the result."""
        return PillowCanvas(resize_pillow(self._image, size, window, interp))

    def crop(self, window: Window) -> PillowCanvas:
        """Keep a window."""
        return PillowCanvas(self._image.crop(window))

    def array(self) -> NDArray[np.uint8]:
        """``(H, W, 3)``."""
        return np.asarray(self._image)

    def tensor(self) -> Tensor:
        """``(3, H, W)``."""
        # A byte array is writable, Pillow's own bytes are not.
        pixels = torch.frombuffer(bytearray(self._image.tobytes()), dtype=torch.uint8)
        return pixels.reshape(*self.size, 3).permute(2, 0, 1)


class TensorCanvas:
    """Pixels resized by torch, several times as fast; they differ from Pillow's by up to 1."""

    def __init__(self, pixels: Tensor) -> None:
        """Wrap an image.

        Args:
            pixels: ``(H, W, 3)`` uint8, contiguous.
        """
        self._pixels = pixels

    @property
    def size(self) -> Size:
        """``(H, W)``."""
        return self._pixels.shape[0], self._pixels.shape[1]

    def flip(self, *, horizontally: bool) -> TensorCanvas:
        """Mirror."""
        return TensorCanvas(self._pixels.flip(1 if horizontally else 0))

    def resize(self, size: Size, window: Window, interp: Image.Resampling) -> TensorCanvas:
        """Resize, and keep a window of the result; with Pillow where it is not bilinear."""
        if interp == Image.Resampling.BILINEAR:
            return TensorCanvas(resize_tensor(self._pixels, size, window))
        image = resize_pillow(Image.fromarray(self.array()), size, window, interp)
        return TensorCanvas(torch.from_numpy(np.array(image)))

    def crop(self, window: Window) -> TensorCanvas:
        """Keep a window."""
        x0, y0, x1, y1 = window
        return TensorCanvas(self._pixels[y0:y1, x0:x1].clone(memory_format=torch.contiguous_format))

    def array(self) -> NDArray[np.uint8]:
        """``(H, W, 3)``."""
        return self._pixels.numpy()

    def tensor(self) -> Tensor:
        """``(3, H, W)``."""
        return self._pixels.permute(2, 0, 1)


def apply_known(canvas: Canvas, transforms: Sequence[Transform]) -> tuple[Canvas, int]:
    """Apply the first transforms, as far as they are known here.

    Args:
        canvas: the image before them.
        transforms: in their order.

    Returns:
        The image after the known ones, and how many these are.
    """
    place = 0
    while place < len(transforms):
        transform = transforms[place]
        if type(transform) not in _KNOWN:
            break
        place += 1
        if type(transform) is RESIZE:
            following = transforms[place] if place < len(transforms) else None
            place += type(following) in CROPS
            canvas = _resize(canvas, transform, following if type(following) in CROPS else None)
        elif type(transform) in CROPS:
            window = window_of(transform, canvas.size)
            if window != (0, 0, canvas.size[1], canvas.size[0]):
                canvas = canvas.crop(window)
        elif type(transform) in _FLIPS:
            canvas = canvas.flip(horizontally=type(transform) is HFlipTransform)
    return canvas, place


def _resize(canvas: Canvas, transform: Transform, crop: Transform | None) -> Canvas:
    size = (int(transform.new_h), int(transform.new_w))
    window = (0, 0, size[1], size[0]) if crop is None else window_of(crop, size)
    return canvas.resize(size, window, Image.Resampling(transform.interp))

# SPDX-License-Identifier: Apache-2.0
"""The canvas of the visualizer, and the stencils that colours are laid through.

Frames: image pixels (x right, y down, pixel i covers [i, i+1)), and canvas pixels, which are
`scale` times as many. A *stencil* is a mode "L" image of how much of each canvas pixel a shape
covers (255: all of it), just large enough, with the canvas position of its corner.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image, ImageColor, ImageDraw

Color = str | Sequence[float] | np.ndarray
RGB = tuple[float, float, float]

_LETTERS = {"r": "red", "g": "green", "b": "blue", "k": "black", "w": "white", "y": "yellow"}
_SUPERSAMPLING = 4  # samples per canvas pixel and axis of a polygon's edge: 16 levels of coverage


def to_rgb(color: Color) -> RGB:
    """Read a colour in any accepted form as three floats in [0, 1]."""
    if isinstance(color, str):
        channels = ImageColor.getrgb(_LETTERS.get(color, color))
        return channels[0] / 255, channels[1] / 255, channels[2] / 255
    red, green, blue = (float(np.clip(channel, 0.0, 1.0)) for channel in color)
    return red, green, blue


def to_bytes(color: Color) -> tuple[int, int, int]:
    """Read a colour in any accepted form as three integers in [0, 255]."""
    red, green, blue = (round(channel * 255) for channel in to_rgb(color))
    return red, green, blue


def readable_on(color: Color) -> RGB:
    """Black or white, whichever stands out more from a background."""
    red, green, blue = to_rgb(color)
    is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55  # luma of ITU-R BT.601
    return (0.0, 0.0, 0.0) if is_light else (1.0, 1.0, 1.0)


class GenericMask:
    """One instance's mask, from run lengths, polygons or a bitmap."""

    def __init__(
        self,
        mask_or_polygons: dict[str, Any] | list[Any] | np.ndarray,
        height: int,
        width: int,
    ) -> None:
        """Wrap a mask.

        Args:
            mask_or_polygons: COCO run lengths, a list of flat polygons ``[x0, y0, x1, y1, ...]``
                in pixels, or a bitmap ``(height, width)``.
            height: of the image.
            width: of the image.

        Raises:
            ValueError: a bitmap or run lengths of another size, or an unknown kind of mask.
        """
        self.height, self.width = height, width
        self.polygons: list[np.ndarray] | None = None
        self._mask: np.ndarray | None = None
        source = mask_or_polygons
        if isinstance(source, list):
            self.polygons = [np.asarray(polygon, dtype=float).reshape(-1) for polygon in source]
            return
        if isinstance(source, dict):
            rle = source
            if isinstance(rle["counts"], list):
                rle = mask_util.frPyObjects(rle, *rle["size"])
            source = mask_util.decode(rle)
        if not isinstance(source, np.ndarray) or source.shape != (height, width):
            raise ValueError(
                f"mask: expected run lengths, polygons or a bitmap of {height} x {width}, got "
                f"{type(source).__name__} {getattr(source, 'shape', '')}"
            )
        self._mask = source.astype(np.uint8)

    @property
    def mask(self) -> np.ndarray:
        """The bitmap, ``(height, width)`` uint8 of 0 and 1."""
        if self._mask is None:
            polygons = [polygon for polygon in self.polygons or [] if len(polygon) >= 6]
            if not polygons:
                return np.zeros((self.height, self.width), dtype=np.uint8)
            rles = mask_util.frPyObjects(polygons, self.height, self.width)
            self._mask = mask_util.decode(mask_util.merge(rles))
        return self._mask

    def area(self) -> int:
        """Count the pixels of the mask."""
        return int(self.mask.sum())

    def bbox(self) -> np.ndarray:
        """Return the tight box around the mask, XYXY pixels; all zero for an empty mask."""
        ys, xs = np.nonzero(self.mask)
        if not len(xs):
            return np.zeros(4)
        return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=float)


class VisImage:
    """The canvas: the input image, enlarged, with what was drawn on it."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        """Start from an image.

        Args:
            img: ``(H, W, 3)`` RGB, 0-255.
            scale: size of the canvas relative to the image.
        """
        self.scale = scale
        self.reset_image(img)

    def reset_image(self, img: np.ndarray) -> None:
        """Start again from another image ``(H, W, 3)``; what was drawn is lost."""
        self.img = img
        self.height, self.width = img.shape[:2]
        size = (max(1, int(self.width * self.scale)), max(1, int(self.height * self.scale)))
        self.canvas = Image.fromarray(np.ascontiguousarray(img, dtype=np.uint8))
        if self.canvas.size != size:
            self.canvas = self.canvas.resize(size, Image.Resampling.BICUBIC)

    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Write the canvas; the ending of the file name decides the format."""
        self.canvas.save(filepath)

    def get_image(self) -> np.ndarray:
        """Return the canvas, ``(H * scale, W * scale, 3)`` RGB uint8."""
        return np.array(self.canvas)

    def blend(
        self, coverage: Image.Image, corner: tuple[int, int], color: Color, alpha: float
    ) -> None:
        """Lay a colour over the canvas where a stencil covers it.

        Args:
            coverage: mode "L"; 255 covers a pixel fully.
            corner: where the stencil's upper left pixel lies on the canvas; may be outside.
            color: what to lay over.
            alpha: opacity in [0, 1].
        """
        stencil = coverage.point(lambda value: value * alpha)
        self.canvas.paste(to_bytes(color), corner, stencil)


def text_size(text: str, font: Any) -> tuple[float, float]:
    """Return width and height of a label box around a line of text, canvas pixels."""
    ascent, descent = font.getmetrics()
    padding = max(3.0, ascent * 0.3)
    return font.getlength(text) + padding, ascent + descent + 2.0


def overlap(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> float:
    """Return the area that two XYXY boxes share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def polygon_stencil(
    polygons: Sequence[np.ndarray], scale: float, canvas_size: tuple[int, int]
) -> tuple[Image.Image | None, tuple[int, int]]:
    """Draw polygons ``[x0, y0, x1, y1, ...]`` as coverage of canvas pixels.

    Returns:
        A stencil just large enough, or None where there is nothing to see, and its corner.
    """
    outlines = [p.reshape(-1, 2) * scale for p in polygons if len(p) >= 6]
    if not outlines:
        return None, (0, 0)
    points = np.concatenate(outlines)
    # One pixel of margin: the outline is found by shrinking the stencil from outside.
    low = np.maximum(np.floor(points.min(axis=0)) - 1, -2).astype(int)
    high = np.minimum(np.ceil(points.max(axis=0)) + 1, np.array(canvas_size) + 2).astype(int)
    width, height = (high - low).tolist()
    if width < 1 or height < 1:
        return None, (0, 0)
    fine = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    draw = ImageDraw.Draw(fine)
    for outline in outlines:
        draw.polygon([tuple(point) for point in (outline - low) * _SUPERSAMPLING], fill=255)
    return fine.reduce(_SUPERSAMPLING), (int(low[0]), int(low[1]))


def bitmap_stencil(mask: np.ndarray, scale: float) -> tuple[Image.Image | None, tuple[int, int]]:
    """Scale a bitmap ``(H, W)`` of 0 and 1 to coverage of canvas pixels, with smooth edges.

    Returns:
        A stencil just large enough, or None for an empty mask, and its corner on the canvas.
    """
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return None, (0, 0)
    x0, y0 = int(xs.min()) - 1, int(ys.min()) - 1
    crop = np.pad(mask, 1)[y0 + 1 : int(ys.max()) + 3, x0 + 1 : int(xs.max()) + 3]
    stencil = Image.fromarray((crop > 0).astype(np.uint8) * 255)
    left, top = round(x0 * scale), round(y0 * scale)
    right, bottom = round((x0 + crop.shape[1]) * scale), round((y0 + crop.shape[0]) * scale)
    size = (max(1, right - left), max(1, bottom - top))
    if stencil.size != size:
        # Bicubic rounds the stairs of the pixels off; the contrast makes the edge firm again.
        stencil = stencil.resize(size, Image.Resampling.BICUBIC)
        stencil = stencil.point(lambda value: (value - 127.5) * 2 + 127.5)
    return stencil, (left, top)

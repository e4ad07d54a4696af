# SPDX-License-Identifier: Apache-2.0
"""Read the common kinds of images fast: JPEG and PNG files in RGB that are stored upright.

Everything else - other formats and modes, pictures that EXIF turns, damaged files - is left to
Detectron2's ``read_image``, with its conversions and its errors.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image

from vitdet_d2.checks.coco_images import ORIENTATION
from vitdet_d2.data.canvas import Canvas, PillowCanvas, TensorCanvas

_UPRIGHT = (None, 0, 1)  # EXIF's number for a picture that is stored as it is seen, and none
# What damaged pixels or EXIF data may raise.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)


def read_canvas(file_name: str, *, exact: bool) -> Canvas | None:
    """Read an image.

    Args:
        file_name: a path, or whatever else ``PathManager`` opens.
        exact: to be resized by Pillow, as Detectron2 does; otherwise by torch.

    Returns:
        The image; None: of no common kind, or damaged.
    """
    try:
        with PathManager.open(file_name, "rb") as file:
            content = file.read()
        with Image.open(io.BytesIO(content)) as image:
            if not _is_plain(image):
                return None
            if exact:
                image.load()
                return PillowCanvas(image)
            return TensorCanvas(torch.from_numpy(_pixels(image, content)))
    except _DAMAGED:
        return None


def _is_plain(image: Image.Image) -> bool:
    if image.mode != "RGB" or image.format not in ("JPEG", "PNG"):
        return False
    if getattr(image, "is_animated", False):
        return False
    return image.getexif().get(ORIENTATION) in _UPRIGHT


def _pixels(image: Image.Image, content: bytes) -> NDArray[np.uint8]:
    """Return ``(H, W, 3)``, writable.

    Args:
        image: opened, not decoded.
        content: its file.

    Raises:
        ValueError: the file is damaged; so do `_DAMAGED`.
    """
    decode = _fast_decoder() if image.format == "JPEG" else None
    return np.array(image) if decode is None else decode(content)


@functools.cache
def _fast_decoder() -> Callable[[bytes], NDArray[np.uint8]] | None:
    """Return simplejpeg's decoder; None where it is not installed: Pillow gives the same pixels."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    # Both run libjpeg-turbo; these are the settings that Pillow uses.
    return functools.partial(decode_jpeg, colorspace="RGB", fastdct=False, fastupsample=False)

# SPDX-License-Identifier: Apache-2.0
"""The window of a resized image, without most of the pixels outside of it.

Pillow resizes in two passes, along the rows and then along the columns, with 8 bits between them.
Each pass depends on its own direction only. Therefore the columns outside of a window can be left
out between the passes, and the rows that it does not need before them, and every pixel that remains
is the one that resizing the whole image gives. (Pillow's own argument ``box`` is in single
precision, which gives slightly other weights. And where it makes images lower, it may do the
columns first, from release 13 on.)

Sizes are ``(height, width)``; a window is ``(x0, y0, x1, y1)`` in pixels of the resized image.
"""

from __future__ import annotations

import math

from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

Size = tuple[int, int]
Window = tuple[int, int, int, int]

# How far the filters reach, in pixels of the coarser of both images.
_REACH = {
    Image.Resampling.BOX: 0.5,
    Image.Resampling.BILINEAR: 1.0,
    Image.Resampling.HAMMING: 1.0,
    Image.Resampling.BICUBIC: 2.0,
    Image.Resampling.LANCZOS: 3.0,
}
# More than rounding can add to a filter's reach.
_SPARE_ROWS = 2


def resize_pillow(
    image: Image.Image, size: Size, window: Window, interp: Image.Resampling
) -> Image.Image:
    """Resize and crop with Pillow: the same pixels as of ``image.resize`` and ``crop``.

    Args:
        image: 8 bits per channel.
        size: after resizing.
        window: what to keep of it.
        interp: Pillow's filter.
    """
    height, width = size
    x0, y0, x1, y1 = window
    if (x0, x1) == (0, width) or height < image.height or interp not in _REACH:
        whole = image.resize((width, height), interp)
        return whole if window == (0, 0, width, height) else whole.crop(window)
    top, bottom = _rows_needed(image.height, height, (y0, y1), interp)
    rows = image.crop((0, top, image.width, bottom)) if bottom - top < image.height else image
    columns = rows.resize((width, rows.height), interp).crop((x0, 0, x1, rows.height))
    if columns.height < image.height:  # what is around does not reach the window
        placed = Image.new(image.mode, (x1 - x0, image.height))
        placed.paste(columns, (0, top))
        columns = placed
    result = columns.resize((x1 - x0, height), interp)
    return result if (y0, y1) == (0, height) else result.crop((0, y0, x1 - x0, y1))


def resize_tensor(image: Tensor, size: Size, window: Window) -> Tensor:
    """Resize bilinearly and crop with torch, antialiased.

    Grey values differ from Pillow's by up to 1, because weights have 16 bits (in images of noise,
    one in a million by 2).

    Args:
        image: ``(H, W, C)`` uint8, contiguous.
        size: after resizing.
        window: what to keep of it.

    Returns:
        ``(H', W', C)``, contiguous, in memory of no more than its size.
    """
    height, width = size
    x0, y0, x1, y1 = window
    rows = image.shape[0]
    if (x0, x1) != (0, width):
        top, bottom = _rows_needed(rows, height, (y0, y1), Image.Resampling.BILINEAR)
        columns = _interpolate(image[top:bottom], (bottom - top, width))[:, x0:x1]
        image = columns.new_zeros((rows, x1 - x0, image.shape[2]))
        image[top:bottom] = columns
        width = x1 - x0
    result = _interpolate(image, (height, width))
    # A view would send the memory of the whole through the workers' queue.
    return result if (y0, y1) == (0, height) else result[y0:y1].clone()


def _interpolate(image: Tensor, size: Size) -> Tensor:
    """Resize ``(H, W, C)``; the passes whose direction keeps its size are left out by torch."""
    # (H, W, C) -> (1, C, H, W); unsqueezed first, torch sees that the channels come last.
    batch = image[None].permute(0, 3, 1, 2)
    resized = interpolate(batch, size, mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1)[0].contiguous()


def _rows_needed(
    height: int, new_height: int, kept: tuple[int, int], interp: Image.Resampling
) -> tuple[int, int]:
    """Return the range of rows that a range of resized rows is computed from, and some more."""
    scale = height / new_height
    reach = _REACH[interp] * max(scale, 1.0) + _SPARE_ROWS
    top = max(math.floor(kept[0] * scale - reach), 0)
    return top, min(math.ceil(kept[1] * scale + reach), height)

# SPDX-License-Identifier: Apache-2.0
"""Reading a picture of whatever kind for prediction: upright, RGB, 8 bits per channel.

The pixels are those that Detectron2's ``read_image(path, "RGB")`` gives for the kinds that it reads
faithfully, so that a picture is predicted as it is evaluated. What it would get wrong in silence is
scaled, with a note, or refused.

H, W: height and width in pixels, after the EXIF orientation is applied.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vitdet_d2.checks.coco_images import ORIENTATION
from vitdet_d2.data.load_failures import UnreadableImageError

# Where Pillow itself speaks of a decompression bomb: half a gigabyte of pixels.
MAX_PIXELS = 178_956_970

_WHITE_16 = 65535
_WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N")
_UPRIGHT = 1  # EXIF's number for a picture that is stored as it is seen
_HEAD_BYTES = 16
_SAYS_LITTLE = "Palette images with Transparency"


@dataclass(frozen=True, kw_only=True, eq=False)
class UprightImage:
    """A picture as a person sees it.

    Attributes:
        pixels: ``(H, W, 3)`` uint8, RGB.
        notes: what was done to it that may matter, one line each.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...]


def read_upright(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> UprightImage:
    """Read a picture file.

    Args:
        path: any format that Pillow reads; recognised by content, not by name.
        max_pixels: more than these are not decoded; a small file can claim any size.

    Returns:
        The picture, with notes on orientation, depth, transparency, CMYK and further frames.

    Raises:
        UnreadableImageError: missing, a folder, not readable, empty, no picture, cut off, too
            large, or of a kind without an agreed range; the message names the file and the cure.
    """
    file = Path(path)
    try:
        size = _require_file(file)
        if size == 0:
            raise UnreadableImageError(f"{file}: an empty file (0 bytes); get it again")
        with _decoding(max_pixels) as said, Image.open(file) as image:
            _require_size(image, max_pixels)
            result = upright(image)
        return UprightImage(pixels=result.pixels, notes=(*result.notes, *said))
    except UnreadableImageError as error:
        text = str(error)
        raise error if str(file) in text else UnreadableImageError(f"{file}: {text}") from None
    except PermissionError:
        raise UnreadableImageError(f"{file}: no permission to read it") from None
    except Image.UnidentifiedImageError:
        raise UnreadableImageError(f"{file}: {_what_it_is(file)}") from None
    # A broken PNG is a SyntaxError, a broken TIFF may be anything else that is listed here.
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(f"{file}: cut off or damaged ({reason})") from None


def upright(image: Image.Image) -> UprightImage:
    """Turn a picture upright, and convert it to RGB with 8 bits per channel.

    Args:
        image: opened by Pillow; its file, if it still has one, is read here.

    Raises:
        UnreadableImageError: its values have no agreed range, such as those of floating point.
    """
    notes = _frame_notes(image)
    orientation = _orientation(image)
    if orientation != _UPRIGHT:
        notes.append(f"turned upright (EXIF orientation {orientation})")
    image = _transposed(image)
    if image.mode in _WIDE_GREY or image.mode in ("I", "F"):
        pixels, note = _from_wide(image)
        return UprightImage(pixels=pixels, notes=(*notes, note))
    notes += _mode_notes(image)
    try:
        rgb = image.convert("RGB")
    except ValueError:
        raise UnreadableImageError(
            f"pictures of mode {image.mode} cannot be converted to RGB; save it as RGB"
        ) from None
    return UprightImage(pixels=np.array(rgb), notes=tuple(notes))


def _require_file(file: Path) -> int:
    """Return the size in bytes.

    Raises:
        UnreadableImageError: there is no such file.
    """
    if file.is_dir():
        raise UnreadableImageError(f"{file}: a folder, not a picture")
    if not file.exists():
        raise UnreadableImageError(f"{file}: not found")
    return file.stat().st_size


def _require_size(image: Image.Image, max_pixels: int) -> None:
    """Refuse what would fill the memory, and what has no pixels.

    Raises:
        UnreadableImageError: the picture is too large or empty.
    """
    width, height = image.size
    if width < 1 or height < 1:
        raise UnreadableImageError(f"{width} x {height} pixels (width x height), nothing to see")
    if width * height > max_pixels:
        raise UnreadableImageError(
            f"{width} x {height} pixels (width x height) are more than the limit of {max_pixels}; "
            "cut it into tiles, make it smaller, or, if you trust it, raise the limit"
        )


@contextlib.contextmanager
def _decoding(max_pixels: int) -> Iterator[list[str]]:
    """Let our limit stand in for Pillow's; collect what Pillow warns of as notes."""
    notes: list[str] = []
    limit = Image.MAX_IMAGE_PIXELS
    # Pillow's own check would warn at half of its limit, and cannot be raised for one call.
    Image.MAX_IMAGE_PIXELS = None
    assert max_pixels > 0, "a limit of pixels is positive"
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield notes
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    texts = [" ".join(str(warning.message).split()) for warning in caught]
    notes.extend(dict.fromkeys(text for text in texts if not text.startswith(_SAYS_LITTLE)))


def _frame_notes(image: Image.Image) -> list[str]:
    frames = getattr(image, "n_frames", 1)
    # The further pictures of an MPO are previews and depth of the same photograph.
    if frames == 1 or image.format == "MPO":
        return []
    word = "pages" if image.format == "TIFF" else "frames"
    return [f"only the first of its {frames} {word} is used"]


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, _UPRIGHT)
    except (SyntaxError, TypeError, ValueError, KeyError, OSError):  # damaged EXIF data
        return _UPRIGHT
    return value if value in range(1, 9) else _UPRIGHT


def _transposed(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; damaged EXIF data is as good as none."""
    try:
        turned = ImageOps.exif_transpose(image)
    except (SyntaxError, TypeError, KeyError, ZeroDivisionError):
        image.load()  # damaged pixels are an error all the same
        return image
    return image if turned is None else turned


def _from_wide(image: Image.Image) -> tuple[NDArray[np.uint8], str]:
    """Scale 16-bit grey to 8 bits.

    Returns:
        ``(H, W, 3)``, and a note with the range of the values, by which a user sees whether the
        picture uses its 16 bits.

    Raises:
        UnreadableImageError: floating point, or integers beyond 16 bits.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > _WHITE_16:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise UnreadableImageError(
            f"a {kind} picture (mode {image.mode}, values {low:g} to {high:g}), which has no "
            "agreed range; save it with 8 bits, with the scale that suits the data"
        )
    grey = ((values.astype(np.uint32) * 255 + _WHITE_16 // 2) // _WHITE_16).astype(np.uint8)
    note = (
        f"16-bit grey, its values {low:g} to {high:g} scaled from 0-{_WHITE_16} to 0-255; if it "
        "looks too dark, save it with 8 bits, with the scale that suits the data"
    )
    return np.repeat(grey[:, :, None], 3, axis=2), note


def _mode_notes(image: Image.Image) -> list[str]:
    if image.mode == "CMYK":
        return ["CMYK, converted to RGB without its colour profile"]
    if _shows_through(image):
        return ["its transparency is ignored, as in training"]
    return []


def _shows_through(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    if image.mode in ("RGBA", "LA", "PA"):
        lowest: Any = image.getchannel("A").getextrema()[0]
        return lowest < 255
    return image.mode in ("RGBa", "La") or "transparency" in image.info


def _what_it_is(file: Path) -> str:
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not a picture; download the picture itself"
    if head.startswith(b"version https://"):
        return "a Git LFS pointer, not a picture; run `git lfs pull` where it was cloned"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "a HEIC photograph, which Pillow does not read; save it as JPEG"
    return f"not a picture that Pillow knows (it begins with {head[:8]!r})"

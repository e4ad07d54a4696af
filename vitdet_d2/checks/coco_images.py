# SPDX-License-Identifier: Apache-2.0
"""Checks of the image files that an annotation file names."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from PIL import Image

from ..errors import DataError
from .coco_values import quote

# Headers read at most: a tenth of a second; a wrong export is wrong for most images.
MAX_HEADERS = 1000
# Exif tag, and its values for a stored picture that lies on its side.
ORIENTATION, TURNED = 0x0112, range(5, 9)


def check_file_names(source: str, images: Sequence[dict[str, Any]]) -> None:
    """Refuse file names that lead out of the image folder.

    Args:
        source: the annotation file, for messages.
        images: the file's ``images``.

    Raises:
        DataError: a name is missing, absolute, or holds ``..``.
    """
    for image in images:
        name = image.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise DataError(
                f"{source}: image {image['id']}: expected a 'file_name', got {quote(name)}"
            )
        # The quick test first: a million names take half a second.
        if (".." in name or name[0] in "/\\~" or ":" in name) and _leaves_folder(name):
            raise DataError(
                f"{source}: image {image['id']}: file_name {quote(name)} leads out of the image "
                "folder; make it relative to that folder, without '..'"
            )


def _leaves_folder(name: str) -> bool:
    windows = PureWindowsPath(name)
    return (
        PurePosixPath(name).is_absolute()
        or bool(windows.drive or windows.root)
        or ".." in windows.parts
        or "://" in name
    )


def check_image_files(
    source: str, images: Sequence[dict[str, Any]], image_root: str | os.PathLike[str]
) -> None:
    """Check that every image is there, and that sizes agree with a sample of the pictures' headers.

    Args:
        source: the annotation file, for messages.
        images: the file's ``images``, with names, heights and widths already checked.
        image_root: folder that the names are relative to.

    Raises:
        DataError: the folder or an image is missing, a file is no picture, or has another size.
    """
    root = Path(image_root)
    if not root.is_dir():
        raise DataError(f"image folder {root} of {source} not found; correct the path")
    missing = _missing(images, root)
    if missing:
        names = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise DataError(
            f"{len(missing)} of {len(images)} images of {source} are missing in {root}: {names}; "
            "add them or correct the image folder"
        )
    if images:
        _check_headers(source, images, root)


def _missing(images: Sequence[dict[str, Any]], root: Path) -> list[str]:
    """Names without a file, in file order; one listing per folder instead of a stat per image."""
    folders: dict[str, list[str]] = defaultdict(list)
    for image in images:
        folder, _, _ = image["file_name"].rpartition("/")
        folders[folder].append(image["file_name"])
    found: set[str] = set()
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        try:
            with os.scandir(root / folder) as entries:
                found.update(prefix + entry.name for entry in entries if entry.is_file())
        except OSError:
            continue
    return [image["file_name"] for image in images if image["file_name"] not in found]


def _check_headers(source: str, images: Sequence[dict[str, Any]], root: Path) -> None:
    step = -(-len(images) // MAX_HEADERS)
    wrong = []
    for image in images[::step]:
        path, said = root / image["file_name"], (image["height"], image["width"])
        stored, turned = _picture_size(path, said)
        if (stored[::-1] if turned else stored) != said:
            wrong.append((path, image, stored, turned))
    if not wrong:
        return
    path, image, stored, turned = wrong[0]
    said = (image["height"], image["width"])
    if turned and stored == said:
        cause = "its Exif orientation turns it on its side: annotate the turned picture, or save it"
        cause += " without the orientation"
    elif stored == said[::-1]:
        cause = "height and width are swapped: correct the file"
    else:
        cause = "correct the file, or name the folder with the images it was made for"
    raise DataError(
        f"{path}: {source} says {said[0]} x {said[1]} (height x width), the picture is "
        f"{stored[0]} x {stored[1]}; {cause} ({len(wrong)} of {len(images[::step])} images looked "
        "at are so)"
    )


def _picture_size(path: Path, said: tuple[int, int]) -> tuple[tuple[int, int], bool]:
    """Height and width as stored, and whether Exif turns the picture by 90 degrees.

    Args:
        path: the picture.
        said: height and width in the annotation file.

    Raises:
        DataError: the file is no picture.
    """
    try:
        with Image.open(path) as picture:
            stored = (picture.height, picture.width)
            # The method of PNG files looks for the tag behind the pixels too, and decodes them all:
            # some 50 ms per picture, so only where there is a doubt.
            exif = Image.Image.getexif(picture) if stored == said else picture.getexif()
            orientation = exif.get(ORIENTATION, 1)
            return stored, isinstance(orientation, int) and orientation in TURNED
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        size = path.stat().st_size
        what = "an empty file" if size == 0 else f"no picture that can be read ({size} bytes)"
        raise DataError(f"{path} is {what}; replace it or remove it from the data set") from error

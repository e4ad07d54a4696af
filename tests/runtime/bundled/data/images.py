# SPDX-License-Identifier: Apache-2.0
"""Pictures and records made for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pixels(height: int, width: int) -> np.ndarray:
    """``(height, width, 3)`` uint8, smooth, different in every channel and at every place."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + 2 * y) % 256)
    return np.stack(channels, axis=-1).astype(np.uint8)


def save_image(path: Path, height: int, width: int, *, orientation: int | None = None) -> Path:
    """Write a picture (lossless for .png), with an EXIF orientation if one is given."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels(height, width)).save(path, exif=exif)
    return path


def box_annotation(
    x: float, y: float, w: float, h: float, category: int = 0, iscrowd: int = 0
) -> dict[str, Any]:
    """An annotation whose polygon is its box."""
    from detectron2.structures import BoxMode

    x, y, w, h = float(x), float(y), float(w), float(h)
    return {
        "bbox": [x, y, w, h],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category,
        "iscrowd": iscrowd,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }


def make_records(folder: Path, sizes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """One PNG and record per ``(height, width)``, with one object in its middle."""
    records = []
    for number, (height, width) in enumerate(sizes):
        path = save_image(folder / f"{number:03}.png", height, width)
        annotation = box_annotation(width / 4, height / 4, width / 2, height / 2, number % 3)
        records.append(
            {
                "file_name": str(path),
                "height": height,
                "width": width,
                "image_id": number,
                "annotations": [annotation],
            }
        )
    return records

# SPDX-License-Identifier: Apache-2.0
"""A small valid COCO document, and named ways to break it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Document = dict[str, Any]


def good() -> Document:
    """Two images of 40 x 60 (height x width), three instances of two classes, ids with a gap."""
    images = [
        {"id": number, "file_name": f"{number}.png", "height": 40, "width": 60}
        for number in (10, 20)
    ]
    annotations = [
        _annotation(1, 10, 3, [4.0, 5.0, 20.0, 10.0]),
        _annotation(2, 10, 7, [30.0, 5.0, 20.0, 30.0]),
        _annotation(3, 20, 7, [0.0, 0.0, 60.0, 40.0]),
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotation(number: int, image: int, category: int, box: list[float]) -> Document:
    x, y, width, height = box
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [polygon],
    }


def rle(first_run: int = 400, second_run: int = 2000, size: tuple[int, int] = (40, 60)) -> Document:
    """Uncompressed run lengths, by default right for the images of `good`."""
    return {"size": list(size), "counts": [first_run, second_run]}


def with_(part: str, key: str, value: object, row: int = 0) -> Callable[[], Document]:
    """The good document with one value replaced."""

    def make() -> Document:
        document = copy.deepcopy(good())
        document[part][row][key] = value
        return document

    return make


def without(part: str, key: str, row: int = 0) -> Callable[[], Document]:
    """The good document with one key removed."""

    def make() -> Document:
        document = copy.deepcopy(good())
        del document[part][row][key]
        return document

    return make

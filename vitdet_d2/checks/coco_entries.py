# SPDX-License-Identifier: Apache-2.0
"""Checks of the images and categories that a COCO annotation file lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DataError
from .coco_images import check_file_names
from .coco_report import Repair
from .coco_values import integer_column, quote

# Of a picture, in pixels: C code counts pixels with 32 bits.
MAX_PIXELS = 2**31 - 1


class Images:
    """The file's images: ids in rising order, and heights and widths in that order."""

    def __init__(self, entries: list[dict[str, Any]], ids: np.ndarray, sizes: np.ndarray) -> None:
        """Sort the images by id.

        Args:
            entries: the repaired entries, in file order.
            ids: ``(N,)`` int64, all different.
            sizes: ``(N, 2)`` height and width.
        """
        order = np.argsort(ids)
        self.entries = entries
        self.ids = ids[order]
        self.sizes = sizes[order]

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Position of each id among the sorted ones, -1 where there is none."""
        if not len(self.ids):
            return np.full(len(ids), -1)
        rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[rows] == ids, rows, -1)


def check_images(source: str, document: dict[str, Any]) -> tuple[Images, list[Repair]]:
    """Check the images, and convert what should be integers.

    Args:
        source: the annotation file, for messages.
        document: its top level; ``images`` is replaced by the repaired entries.

    Returns:
        The images, and what was repaired.

    Raises:
        DataError: there are none, or an id, size or file name is missing or impossible.
    """
    entries = document["images"]
    if not entries:
        raise DataError(f"{source}: there are no images in it; export it again")

    def name(row: int) -> str:
        return f"{source}: image {quote(entries[row].get('id'))} (entry {row})"

    columns, changed = [], set()
    for key in ("id", "height", "width"):
        column, coerced = integer_column([entry.get(key) for entry in entries], key, name)
        columns.append(column)
        changed.update(coerced)
    ids, heights, widths = columns
    if changed:
        entries = list(entries)
        for row in changed:
            numbers = {"id": ids[row], "height": heights[row], "width": widths[row]}
            entries[row] = {**entries[row], **{key: int(n) for key, n in numbers.items()}}
        document["images"] = entries
    _refuse_duplicates(source, "image", ids)
    pixels = heights.astype(np.float64) * widths
    bad = np.flatnonzero((heights < 1) | (widths < 1) | (pixels > MAX_PIXELS))
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{name(row)}: expected a height and width of at least 1 pixel, "
            f"got {heights[row]} x {widths[row]}; correct the entry"
        )
    check_file_names(source, entries)
    what = "images whose 'id', 'height' or 'width' was no integer (converted)"
    repairs = _conversions(what, ids[sorted(changed)])
    return Images(entries, ids, np.stack([heights, widths], axis=1)), repairs


def _conversions(what: str, ids: np.ndarray) -> list[Repair]:
    """At most one repair; a reader without our checks would not find the entries by their ids."""
    if not len(ids):
        return []
    return [Repair(what=what, count=len(ids), examples=tuple(ids[:10].tolist()))]


def check_categories(source: str, document: dict[str, Any]) -> tuple[dict[int, str], list[Repair]]:
    """Check the categories, and convert ids that should be integers.

    Args:
        source: the annotation file, for messages.
        document: its top level; ``categories`` is replaced by the repaired entries.

    Returns:
        Category id -> name, in rising order of the ids, and what was repaired.

    Raises:
        DataError: there are none, an id is missing or taken twice, or a name is missing.
    """
    entries = document["categories"]
    if not entries:
        raise DataError(f"{source}: there are no categories in it; export it again")

    def name(row: int) -> str:
        return f"{source}: category {quote(entries[row].get('id'))} (entry {row})"

    ids, coerced = integer_column([entry.get("id") for entry in entries], "id", name)
    _refuse_duplicates(source, "category", ids)
    for row, entry in enumerate(entries):
        if not isinstance(entry.get("name"), str) or not entry["name"]:
            raise DataError(f"{name(row)}: expected a 'name', got {quote(entry.get('name'))}")
    if coerced:
        pairs = zip(entries, ids.tolist(), strict=True)
        document["categories"] = [{**entry, "id": number} for entry, number in pairs]
    names = [entry["name"] for entry in entries]
    what = "categories whose 'id' was no integer (converted)"
    by_id = dict(sorted(zip(ids.tolist(), names, strict=True)))
    return by_id, _conversions(what, ids[coerced])


def _refuse_duplicates(source: str, what: str, ids: np.ndarray) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        taken = values[counts > 1]
        raise DataError(
            f"{source}: {what} id {taken[0]} is used {counts[counts > 1][0]} times "
            f"({len(taken)} such ids); give every {what} an id of its own"
        )

# SPDX-License-Identifier: Apache-2.0
"""Validation of COCO annotation files: stop at what has no safe reading, repair what has one.

Fatal: no numbers where numbers are needed, NaN, infinity, coordinates far outside, unknown category
ids, duplicate image or category ids, malformed run lengths, missing images, wrong image sizes.

Repaired in memory, and counted: missing ``iscrowd`` and ``area``, annotation ids that are missing,
0 or taken twice (COCO's evaluation scores those wrongly), ids and sizes that are no integers, such
as the string "7", polygons without area, boxes without area or beyond the image, annotations of
images that are not in the file.

Source: what pycocotools 2.0.11 does with each, measured: crashes on NaN polygons and on polygons at
1e9, undefined masks for bad run lengths, AP 0 for annotation id 0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import DataError
from .coco_entries import Images, check_categories, check_images
from .coco_file import load_document
from .coco_images import check_image_files
from .coco_masks import REACH, check_polygons, check_rles
from .coco_report import CocoReport, Repair
from .coco_values import box_column, integer_column, is_finite_number, quote
from .lvis_entries import check_federated, check_frequencies, class_names, is_lvis, name_images

# Pixels by which boxes leave the image through rounding alone; COCO's own boxes do.
TOLERANCE = 1.0


def check_coco_annotations(
    path_or_dict: str | os.PathLike[str] | Mapping[str, Any],
    image_root: str | os.PathLike[str] | None = None,
) -> CocoReport:
    """Check an annotation file, COCO's or LVIS's, and repair in memory what can be repaired safely.

    Args:
        path_or_dict: the file, or its content, which is not changed.
        image_root: folder of the images, whose existence and sizes are checked too; None to leave
            them out.

    Returns:
        The repaired content and what was found.

    Raises:
        DataError: the file cannot be used; the message names file, entry, what was expected, what
            was found, and the cure.
    """
    source, document = load_document(path_or_dict)
    lvis = is_lvis(document)
    if lvis:
        name_images(source, document)
    images, image_repairs = check_images(source, document)
    categories, category_repairs = check_categories(source, document)
    if lvis:
        categories = class_names(document, categories)
        check_federated(source, document, list(categories))
    if image_root is not None:
        check_image_files(source, images.entries, image_root)
    table = _Annotations(source, document, images, categories, lvis)
    table.repairs += image_repairs + category_repairs
    table.check_ids()
    table.check_flags()
    table.check_boxes()
    table.check_masks()
    table.fill_areas()
    return table.report(document)


class _Annotations:
    """The file's annotations, checked and repaired step by step."""

    def __init__(
        self,
        source: str,
        document: dict[str, Any],
        images: Images,
        categories: dict[int, str],
        lvis: bool,
    ) -> None:
        """Start with every annotation kept and none changed.

        Args:
            source: the annotation file, for messages.
            document: its top level.
            images: its images, checked.
            categories: id -> name.
            lvis: whether it is in LVIS's format.
        """
        self.source = source
        self.original: list[dict[str, Any]] = document["annotations"]
        self.entries = list(self.original)
        self.images = images
        self.categories = categories
        self.lvis = lvis
        self.keep = np.ones(len(self.entries), bool)
        self.repairs: list[Repair] = []
        self.crowd = np.zeros(len(self.entries), bool)
        self.rle_areas = np.zeros(len(self.entries), np.int64)
        # 0 none, 1 polygons, 2 run lengths
        self.mask_kinds = np.zeros(len(self.entries), np.int8)

    def name(self, row: int) -> str:
        """Words for a row in a message."""
        entry = self.original[row]
        return (
            f"{self.source}: annotation {quote(entry.get('id'))} "
            f"(image {quote(entry.get('image_id'))})"
        )

    def column(self, key: str) -> list[Any]:
        """One key of every row, None where it is missing."""
        return [entry.get(key) for entry in self.entries]

    def change(self, row: int) -> dict[str, Any]:
        """A row that may be written to: a copy at the first change."""
        if self.entries[row] is self.original[row]:
            self.entries[row] = dict(self.original[row])
        return self.entries[row]

    def note(self, what: str, rows: np.ndarray | list[int]) -> None:
        """Count a repair, if there is any row that needed it."""
        if len(rows):
            ids = tuple(self.original[int(row)].get("id") for row in rows[:10])
            self.repairs.append(Repair(what=what, count=len(rows), examples=ids))

    def drop(self, what: str, rows: np.ndarray) -> None:
        """Leave rows out, and count those that were not out already."""
        rows = rows[self.keep[rows]]
        self.note(what, rows)
        self.keep[rows] = False

    def check_ids(self) -> None:
        """Image, category and annotation ids: integers that exist, and that COCO can score.

        Raises:
            DataError: an id is no integer, or a category is unknown.
        """
        columns = {}
        for key in ("image_id", "category_id"):
            columns[key], coerced = integer_column(self.column(key), key, self.name)
            for row in coerced:
                self.change(row)[key] = int(columns[key][row])
            self.note(f"annotations whose {key!r} was no integer (converted)", coerced)
        known = np.array(list(self.categories), np.int64)
        unknown = np.flatnonzero(~np.isin(columns["category_id"], known))
        if len(unknown):
            row = int(unknown[0])
            raise DataError(
                f"{self.name(row)}: category_id {columns['category_id'][row]} is not in "
                f"'categories', which has {_id_list(known)}; correct it or add the category "
                f"({len(unknown)} such annotations)"
            )
        self.category_ids = columns["category_id"]
        self.rows = self.images.rows(columns["image_id"])
        orphans = np.flatnonzero(self.rows < 0)
        self.drop("annotations of images that are not in the file (dropped)", orphans)
        self.sizes = self.images.sizes[np.maximum(self.rows, 0)]
        self._check_annotation_ids()

    def _check_annotation_ids(self) -> None:
        ids = self.column("id")
        fine = set(map(type, ids)) <= {int} and len(set(ids)) == len(ids) and 0 not in ids
        if fine and all(-(2**63) <= number < 2**63 for number in ids):
            return
        for row in range(len(ids)):
            self.change(row)["id"] = row + 1
        what = "annotations renumbered: an 'id' was missing, 0, no integer, or taken twice"
        self.repairs.append(Repair(what=what, count=len(ids)))

    def check_flags(self) -> None:
        """``iscrowd`` is 0 or 1 (in LVIS 0 or missing), and ``ignore`` is not set.

        Raises:
            DataError: another value.
        """
        flags = self.column("iscrowd")
        missing = [row for row, flag in enumerate(flags) if flag is None]
        for row in missing:
            flags[row] = 0
            if not self.lvis:
                self.change(row)["iscrowd"] = 0
        if not self.lvis:
            self.note("annotations without 'iscrowd' (set to 0)", missing)
        for row, flag in enumerate(flags):
            if flag not in (0, 1):
                raise DataError(
                    f"{self.name(row)}: expected 'iscrowd' 0 or 1, got {quote(flag)}; correct it"
                )
            if flag and self.lvis:
                raise DataError(
                    f"{self.name(row)}: 'iscrowd' is set, but LVIS has no crowds; remove the "
                    "annotation and add its category to the image's 'not_exhaustive_category_ids'"
                )
            if self.entries[row].get("ignore"):
                raise DataError(
                    f"{self.name(row)}: 'ignore' is set, which COCO does not know; "
                    "set 'iscrowd' to 1 instead, or remove the annotation"
                )
        self.crowd = np.array(flags, dtype=bool)

    def check_boxes(self) -> None:
        """Boxes have an area, and lie within the image.

        Raises:
            DataError: a box is not 4 finite numbers, or is far outside.
        """
        boxes = box_column(self.column("bbox"), self.name)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        limits = self.sizes[:, ::-1].astype(np.float64)
        far = np.abs(corners).max(1, initial=0) > REACH * limits.max(1, initial=0)
        far_rows = np.flatnonzero(far & self.keep)
        if len(far_rows):
            row = int(far_rows[0])
            raise DataError(
                f"{self.name(row)}: box {boxes[row].tolist()} is far outside the image of "
                f"{self.sizes[row, 0]} x {self.sizes[row, 1]} pixels (height x width); correct or "
                "remove the annotation"
            )
        degenerate = (boxes[:, 2:] <= 0).any(1)
        self.drop("boxes without area (annotation dropped)", np.flatnonzero(degenerate))
        low = np.clip(corners[:, :2], 0, limits)
        high = np.clip(corners[:, 2:], 0, limits)
        self.drop(
            "boxes outside the image (annotation dropped)",
            np.flatnonzero((high <= low).any(1)),
        )
        beyond = np.abs(corners - np.concatenate([low, high], axis=1)).max(1, initial=0)
        clipped = np.flatnonzero((beyond > TOLERANCE) & self.keep)
        inside = np.concatenate([low, high - low], axis=1)
        for index in clipped.tolist():
            self.change(index)["bbox"] = inside[index].tolist()
        self.note("boxes partly outside the image (clipped)", clipped)

    def check_masks(self) -> None:
        """Masks are polygons or run lengths that can be drawn.

        Raises:
            DataError: a mask that is neither, or is malformed.
        """
        masks = self.column("segmentation")
        for row, mask in enumerate(masks):
            if isinstance(mask, list):
                self.mask_kinds[row] = 1 if mask else 0
            elif isinstance(mask, dict):
                self.mask_kinds[row] = 2 if mask else 0
            elif mask is not None:
                raise DataError(
                    f"{self.name(row)}: expected 'segmentation' as a list of polygons or as run "
                    f"lengths, got {quote(mask)}; correct or remove it"
                )
        self._check_polygons(masks)
        rle_rows = np.flatnonzero((self.mask_kinds == 2) & self.keep)
        self.rle_areas[rle_rows] = check_rles(
            [masks[row] for row in rle_rows],
            self.sizes[rle_rows],
            lambda row: self.name(int(rle_rows[row])),
        )

    def _check_polygons(self, masks: list[Any]) -> None:
        rows = np.flatnonzero((self.mask_kinds == 1) & self.keep)
        bad_rows, bad_positions = check_polygons(
            [masks[row] for row in rows],
            self.sizes[rows].max(1, initial=0),
            lambda row: self.name(int(rows[row])),
        )
        dropped: dict[int, set[int]] = {}
        for bad_row, position in zip(rows[bad_rows].tolist(), bad_positions, strict=True):
            dropped.setdefault(bad_row, set()).add(int(position))
        empty = []
        for row, positions in dropped.items():
            rest = [part for index, part in enumerate(masks[row]) if index not in positions]
            self.change(row)["segmentation"] = rest
            if not rest:
                empty.append(row)
        self.note(
            "annotations with polygons of less than 3 points or an odd count of numbers (polygons "
            "dropped)",
            list(dropped),
        )
        self.drop("annotations without any valid polygon (dropped)", np.array(empty, np.int64))

    def fill_areas(self) -> None:
        """Compute the areas, in square pixels, that are missing, negative or not finite."""
        missing = [
            row
            for row, area in enumerate(self.column("area"))
            if self.keep[row] and not (is_finite_number(area) and area >= 0)
        ]
        for row in missing:
            entry = self.change(row)
            if self.mask_kinds[row] == 2:
                entry["area"] = int(self.rle_areas[row])
            elif self.mask_kinds[row] == 1:
                entry["area"] = sum(map(_polygon_area, entry["segmentation"]))
            else:
                entry["area"] = float(entry["bbox"][2] * entry["bbox"][3])
        self.note("annotations without 'area' (computed)", missing)

    def report(self, document: dict[str, Any]) -> CocoReport:
        """Sum up, with the kept annotations in a new top level."""
        instances = self.keep & ~self.crowd
        num_images = len(self.images.ids)
        has_instance = _marks(num_images, self.rows[instances])
        has_kept = _marks(num_images, self.rows[self.keep])
        has_any = _marks(num_images, self.rows[self.rows >= 0])
        counts = [int((self.category_ids[instances] == i).sum()) for i in self.categories]
        kinds = np.bincount(self.mask_kinds[instances], minlength=3)
        kept = [self.entries[row] for row in np.flatnonzero(self.keep)]
        facts = None
        if self.lvis:
            annotated = (self.rows[self.keep], self.category_ids[self.keep])
            facts = check_frequencies(self.source, document, list(self.categories), annotated)
        return CocoReport(
            source=self.source,
            document={**document, "annotations": kept},
            repairs=tuple(self.repairs),
            category_ids=tuple(self.categories),
            category_names=tuple(self.categories.values()),
            instances_per_class=tuple(counts),
            num_images=num_images,
            num_usable=int(has_instance.sum()),
            num_crowd_only=int((has_kept & ~has_instance).sum()),
            num_invalid_only=int((has_any & ~has_kept).sum()),
            num_empty=int((~has_any).sum()),
            num_polygon_masks=int(kinds[1]),
            num_rle_masks=int(kinds[2]),
            num_without_mask=int(kinds[0]),
            lvis=facts,
        )


def _marks(length: int, rows: np.ndarray) -> np.ndarray:
    marks = np.zeros(length, bool)
    marks[rows] = True
    return marks


def _id_list(ids: np.ndarray) -> str:
    listed = ", ".join(str(number) for number in ids[:10])
    return f"ids {listed}{', ...' if len(ids) > 10 else ''}"


def _polygon_area(polygon: list[float]) -> float:
    """Area of one polygon in square pixels (shoelace formula)."""
    x, y = np.array(polygon, dtype=np.float64).reshape(-1, 2).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)

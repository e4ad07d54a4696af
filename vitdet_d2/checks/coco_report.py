# SPDX-License-Identifier: Apache-2.0
"""What the checks of COCO-format files found, as value objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .lvis_entries import LvisFacts


@dataclass(frozen=True, kw_only=True)
class Repair:
    """One kind of mistake that was put right in memory; the file on disk is never touched."""

    # A sentence without subject: "annotations without 'iscrowd' (set to 0)".
    what: str
    count: int
    # Ids, as the file has them, of the first entries that it concerns.
    examples: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if not self.examples:
            return f"{self.count} {self.what}"
        ids = ", ".join(map(str, self.examples))
        return f"{self.count} {self.what}: ids {ids}{', ...' if self.count > 10 else ''}"


@dataclass(frozen=True, kw_only=True)
class CocoReport:
    """A valid annotation file, what was repaired in it, and what it holds.

    ``document`` is the repaired content, safe for pycocotools. It shares every unchanged part with
    what was passed in.
    """

    source: str
    document: dict[str, Any]
    repairs: tuple[Repair, ...]
    # Sorted by id: the position is the class index that a model predicts.
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    # Instances (not crowds) of each class, in the same order.
    instances_per_class: tuple[int, ...]
    num_images: int
    # Images by what is left in them: instances; crowds only; only annotations that were dropped;
    # nothing from the start. They add up to num_images.
    num_usable: int
    num_crowd_only: int
    num_invalid_only: int
    num_empty: int
    # Instances (not crowds) by how their mask is given.
    num_polygon_masks: int
    num_rle_masks: int
    num_without_mask: int
    # What LVIS's format says beyond COCO's; None for a file in COCO's.
    lvis: LvisFacts | None = None

    @property
    def class_index(self) -> dict[int, int]:
        """Category id of the file -> class index."""
        return {category: index for index, category in enumerate(self.category_ids)}

    @property
    def unused_classes(self) -> tuple[str, ...]:
        """Names of the classes without a single instance, whose AP is undefined."""
        counts = zip(self.category_names, self.instances_per_class, strict=True)
        return tuple(name for name, count in counts if not count)

    @property
    def breakdown(self) -> str:
        """Why images are usable for training or not, in one line."""
        return (
            f"{self.num_images} images: {self.num_usable} with instances, "
            f"{self.num_crowd_only} with crowds only, {self.num_invalid_only} with only invalid "
            f"annotations, {self.num_empty} without annotations"
        )


@dataclass(frozen=True, kw_only=True)
class ResultsReport:
    """Valid detections, ready for the evaluation."""

    num_results: int
    num_images: int
    # What to look at when there are none, else empty.
    hint: str

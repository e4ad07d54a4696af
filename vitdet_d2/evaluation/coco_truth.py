# SPDX-License-Identifier: Apache-2.0
"""The annotations of a COCO data set as arrays, in the order in which they are scored.

Shapes: I images and K categories, both in the order of their ids; G annotations, in the order of
the file; A = 4 ranges of area.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdet_d2.evaluation.lvis_scoring import run_lengths

Array = NDArray[Any]

AREA_NAMES = ("all", "small", "medium", "large")
# Square pixels; both ends belong to a range.
AREA_RANGES = np.array([[0, 1e5], [0, 32], [32, 96], [96, 1e5]]) ** 2


class CocoTruth:
    """Annotations that were checked, indexed once for any number of evaluations.

    Attributes:
        image_ids: ``(I,)``, sorted.
        category_ids: ``(K,)``, sorted.
        images: ``(G,)`` position in `image_ids`.
        categories: ``(G,)`` position in `category_ids`.
        boxes: ``(G, 4)`` XYWH.
        crowd: ``(G,)`` bool; a crowd can be found any number of times and never counts.
        ignored: ``(A, G)`` bool, crowds and those outside of a range of area.
    """

    def __init__(self, dataset: Mapping[str, Any]) -> None:
        """Index a COCO dictionary.

        Args:
            dataset: checked by `prepare_ground_truth`: every annotation has an id that is not 0,
                ``iscrowd``, ``area`` and ``bbox``, and its image and category are there.
        """
        rows = dataset["annotations"]
        self.image_ids = np.unique(np.array([i["id"] for i in dataset["images"]], np.int64))
        self.category_ids = np.unique(np.array([c["id"] for c in dataset["categories"]], np.int64))
        self.images = self._positions(self.image_ids, rows, "image_id")
        self.categories = self._positions(self.category_ids, rows, "category_id")
        self.boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        self.crowd = np.array([bool(row["iscrowd"]) for row in rows], bool)
        areas = np.array([row["area"] for row in rows], np.float64)
        self.ignored = self.crowd | outside_of_ranges(areas)
        self._rows = rows
        self._sizes = {i["id"]: (i.get("height"), i.get("width")) for i in dataset["images"]}
        self._masks: dict[int, dict[str, Any]] = {}

    @staticmethod
    def _positions(ids: Array, rows: Sequence[Mapping[str, Any]], key: str) -> Array:
        return np.searchsorted(ids, np.array([row[key] for row in rows], np.int64))

    def mask(self, number: int) -> dict[str, Any]:
        """Return the compressed run-length code of an annotation, made once.

        Args:
            number: of the annotation; it has a segmentation.
        """
        mask = self._masks.get(number)
        if mask is None:
            row = self._rows[number]
            mask = run_lengths(row["segmentation"], self._sizes[row["image_id"]])
            self._masks[number] = mask
        return mask


def outside_of_ranges(areas: Array) -> Array:
    """Whether areas are outside of each range, ``(A, N)``.

    Args:
        areas: ``(N,)`` in square pixels.
    """
    return (areas < AREA_RANGES[:, :1]) | (areas > AREA_RANGES[:, 1:])

# SPDX-License-Identifier: Apache-2.0
"""Give a COCO dictionary the form that pycocotools silently relies on.

pycocotools 2.0.11 scores AP 0 where an annotation id is 0 or occurs twice, raises KeyError where
``iscrowd`` is missing, and AP -1 where ids are text. None of that is wrong data: it is repaired
here, in a copy, before anything is evaluated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def repair_coco(dataset: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a copy of a COCO dictionary that pycocotools can evaluate, and what was changed.

    * Ids written as text (``"12"``) become integers.
    * Annotations are numbered from 1 where an id is missing, below 1, or not unique.
    * ``iscrowd`` that is missing or null becomes 0.
    * ``area`` that is missing or null becomes that of the segmentation, else of the box, in
      pixels.

    Args:
        dataset: ``images``, ``categories`` and perhaps ``annotations``; not changed.

    Returns:
        The copy, and one sentence for every kind of change, with its count.

    Source: the behaviour of pycocotools 2.0.11, measured; ``COCO.annToRLE`` for masks.
    """
    changes: Counter[str] = Counter()
    repaired = dict(dataset)
    for key in ("images", "categories"):
        repaired[key] = [_with_integers(x, ("id",), changes) for x in dataset.get(key, [])]
    if "annotations" in dataset:
        names = ("id", "image_id", "category_id")
        annotations = [_with_integers(x, names, changes) for x in dataset["annotations"]]
        annotations = [_with_defaults(x, changes) for x in annotations]
        repaired["annotations"] = _numbered(annotations, changes)
    notes = [f"{count} {what}" for what, count in sorted(changes.items())]
    return repaired, notes


def _with_integers(
    entry: Mapping[str, Any], names: Sequence[str], changes: Counter[str]
) -> dict[str, Any]:
    """Copy an entry; ids that are numbers in text form become integers."""
    copy = dict(entry)
    for name in names:
        value = copy.get(name)
        if isinstance(value, str) and value.strip().isdecimal():
            copy[name] = int(value)
            changes["ids were text and are read as numbers"] += 1
    return copy


def _with_defaults(annotation: dict[str, Any], changes: Counter[str]) -> dict[str, Any]:
    """Fill in what an annotation lacks, in place."""
    if annotation.get("iscrowd") is None:
        annotation["iscrowd"] = 0
        changes["annotations lacked 'iscrowd', which is taken as 0"] += 1
    if annotation.get("area") is None:
        annotation["area"] = _area(annotation)
        changes["annotations lacked 'area', which is computed"] += 1
    return annotation


def _numbered(annotations: list[dict[str, Any]], changes: Counter[str]) -> list[dict[str, Any]]:
    """Number all annotations anew unless every id is a positive integer of its own, in place."""
    ids = [annotation.get("id") for annotation in annotations]
    positive = {i for i in ids if isinstance(i, (int, np.integer)) and i > 0}
    if len(positive) == len(ids):
        return annotations
    changes["annotations are numbered anew: an id was missing, below 1 or not unique"] = len(ids)
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return annotations


def _area(annotation: Mapping[str, Any]) -> float:
    """Compute the area of an annotation's polygons, run lengths or box, in pixels."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        counts = segmentation.get("counts")
        if isinstance(counts, list):
            return float(sum(counts[1::2]))  # runs of 0 and 1 alternate, and 0 is first
        from pycocotools import mask as mask_util

        return float(mask_util.area(dict(segmentation)))
    if segmentation:
        return float(sum(_polygon_area(polygon) for polygon in segmentation))
    box = annotation.get("bbox")
    return float(box[2] * box[3]) if box else 0.0


def _polygon_area(polygon: Sequence[float]) -> float:
    """Compute the area of ``[x0, y0, x1, y1, ...]`` by the shoelace formula."""
    x, y = np.asarray(polygon, dtype=float).reshape(-1, 2).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)

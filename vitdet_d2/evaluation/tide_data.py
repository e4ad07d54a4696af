# SPDX-License-Identifier: Apache-2.0
"""Detections and annotations of a data set as arrays, with their overlaps.

Shapes: N detections, by image, and best score first within one; G annotations that count, without
crowds; P pairs of both that overlap, by detection; K categories in the order of their ids. Boxes
are XYWH in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray

from vitdet_d2.checks import CocoReport
from vitdet_d2.evaluation.lvis_scoring import run_lengths

Task = Literal["bbox", "segm"]
Array = NDArray[Any]
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TideData:
    """What an analysis of errors needs.

    Attributes:
        category_ids: ``(K,)``, sorted.
        class_names: by class.
        num_images: of the annotation file.
        classes: ``(N,)``, the position of each detection's category in `category_ids`.
        scores: ``(N,)``.
        excused: ``(N,)`` whether a detection that finds nothing is neither right nor wrong: it lies
            in a crowd of its class, or LVIS does not say whether its class is in the image.
        truth_classes: ``(G,)``.
        pair_detections: ``(P,)``, ascending.
        pair_truths: ``(P,)``, ascending for each detection.
        pair_ious: ``(P,)``, above 0.
        num_beyond: detections left out because their image has too many of better score.
    """

    category_ids: Array
    class_names: tuple[str, ...]
    num_images: int
    classes: Array
    scores: Array
    excused: Array
    truth_classes: Array
    pair_detections: Array
    pair_truths: Array
    pair_ious: Array
    num_beyond: int


@dataclass(frozen=True, kw_only=True)
class _Image:
    """An image with its annotations: those that count, and its crowds."""

    entry: Row
    truths: Sequence[Row]
    crowds: Sequence[Row]
    federated: bool  # LVIS's rules


@dataclass(frozen=True, kw_only=True)
class _Rules:
    """What is compared, and when a detection lies in a crowd."""

    task: Task
    positive_iou: float


def tide_data(
    report: CocoReport,
    results: Sequence[Row],
    task: Task,
    *,
    positive_iou: float,
    max_detections: int,
) -> TideData:
    """Sort detections and annotations, and compare those of each image.

    Args:
        report: a checked annotation file, COCO's or LVIS's.
        results: checked detections in COCO's result format.
        task: what is compared.
        positive_iou: part of a detection in a crowd from which on it is excused.
        max_detections: of an image, over all classes; those of best score are taken.
    """
    category_ids = np.array(report.category_ids, np.int64)
    images = _by_image(report)
    positions = np.searchsorted(np.array(list(images), np.int64), _column(results, "image_id"))
    scores = np.array([row["score"] for row in results], np.float64)
    order, num_beyond = _best(positions, scores, max_detections)
    rows = [results[row] for row in order.tolist()]
    starts = np.searchsorted(positions[order], np.arange(len(images) + 1)).tolist()
    rules = _Rules(task=task, positive_iou=positive_iou)
    # The first part gives the arrays their types where there is nothing else.
    parts = [(np.zeros(0, bool), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    parts += list(_compared(list(images.values()), rows, starts, rules))
    truths = [row for image in images.values() for row in image.truths]
    return TideData(
        category_ids=category_ids,
        class_names=report.category_names,
        num_images=len(images),
        classes=np.searchsorted(category_ids, _column(rows, "category_id")),
        scores=scores[order],
        excused=np.concatenate([part[0] for part in parts]),
        truth_classes=np.searchsorted(category_ids, _column(truths, "category_id")),
        pair_detections=np.concatenate([part[1] for part in parts]),
        pair_truths=np.concatenate([part[2] for part in parts]),
        pair_ious=np.concatenate([part[3] for part in parts]),
        num_beyond=num_beyond,
    )


def _column(rows: Sequence[Row], key: str) -> Array:
    # Some writers put whole numbers as 7.0 or "7"; the checks have let only such through.
    return np.array([int(row[key]) for row in rows], np.int64)


def _by_image(report: CocoReport) -> dict[int, _Image]:
    """Return the annotations by image id, sorted, as COCO's evaluation walks through them."""
    rows: dict[int, list[Row]] = {image["id"]: [] for image in report.document["images"]}
    for annotation in report.document["annotations"]:
        # LVIS's own evaluation has annotations without area neither found nor missed.
        if report.lvis is None or annotation["area"] > 0:
            rows[annotation["image_id"]].append(annotation)
    entries = {image["id"]: image for image in report.document["images"]}
    return {
        number: _Image(
            entry=entries[number],
            truths=[row for row in rows[number] if not row.get("iscrowd")],
            crowds=[row for row in rows[number] if row.get("iscrowd")],
            federated=report.lvis is not None,
        )
        for number in sorted(entries)
    }


def _best(images: Array, scores: Array, most: int) -> tuple[Array, int]:
    """Order by image and falling score, without those beyond the first `most` of an image.

    Returns:
        The positions, and how many were left out.
    """
    order = np.lexsort((-scores, images))
    ordered = images[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    return order[rank < most], int((rank >= most).sum())


def _compared(
    images: Sequence[_Image], rows: Sequence[Row], starts: Sequence[int], rules: _Rules
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Yield whether detections are excused, and pairs, by image."""
    first_truth = 0
    for image, start, end in zip(images, starts, starts[1:], strict=False):
        if end > start:
            found = rows[start:end]
            shapes = _shapes(found, image, rules.task)
            ious = _ious(shapes, _shapes(image.truths, image, rules.task), crowd=False)
            detections, truths = np.nonzero(ious)
            excused = _in_crowd(shapes, found, image, rules)
            if image.federated:
                excused |= _not_judged(shapes, found, image)
            yield excused, detections + start, truths + first_truth, ious[detections, truths]
        first_truth += len(image.truths)


def _shapes(rows: Sequence[Row], image: _Image, task: Task) -> Array | list[Any]:
    """Return boxes ``(R, 4)``, or run-length codes."""
    if task == "bbox":
        return np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    size = (image.entry["height"], image.entry["width"])
    return [run_lengths(row["segmentation"], size) for row in rows]


def _ious(found: Array | list[Any], wanted: Array | list[Any], *, crowd: bool) -> Array:
    """Return overlaps, ``(detections, annotations)``; with crowds: the part inside of them."""
    if not len(wanted):
        return np.zeros((len(found), 0))
    return np.asarray(mask_util.iou(found, wanted, [int(crowd)] * len(wanted)))


def _in_crowd(
    shapes: Array | list[Any], found: Sequence[Row], image: _Image, rules: _Rules
) -> Array:
    """Whether each detection of an image lies in a crowd of its class."""
    part = _ious(shapes, _shapes(image.crowds, image, rules.task), crowd=True)
    same = _column(found, "category_id")[:, None] == _column(image.crowds, "category_id")[None]
    return np.asarray(((part >= rules.positive_iou) & same).any(1))


def _not_judged(shapes: Array | list[Any], found: Sequence[Row], image: _Image) -> Array:
    """Whether LVIS's rules excuse each detection of an image; one without area it leaves out."""
    categories = _column(found, "category_id")
    annotated = _column(image.truths, "category_id").tolist()
    judged = [*annotated, *image.entry.get("neg_category_ids", [])]
    partly = image.entry.get("not_exhaustive_category_ids", [])
    if isinstance(shapes, list):
        # One by one: pycocotools 2.0.11 overflows on lists of more than 255.
        areas = np.array([mask_util.area(shape) for shape in shapes], np.float64)
    else:
        areas = shapes[:, 2:].prod(axis=1)
    return np.asarray(~np.isin(categories, judged) | np.isin(categories, partly) | (areas <= 0))

# SPDX-License-Identifier: Apache-2.0
"""Average precision by LVIS's rules, from arrays.

LVIS's images are annotated for some categories only, so that a detection counts in an image only
where its category was annotated or found absent there; where the annotation of a category is not
exhaustive, a detection that matches nothing is neither right nor wrong.

Shapes: A = 4 ranges of area, T = 10 IoU thresholds, R = 101 recalls, K categories in the order of
their ids; G annotations and D detections of one category in one image, best score first. Boxes are
XYWH in pixels.

Source: LVIS, arXiv 1908.03195, section 3; equals the package lvis 0.5.3, ties included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray

from vitdet_d2.checks import CocoReport
from vitdet_d2.checks.lvis_entries import FREQUENCIES
from vitdet_d2.evaluation.lvis_matching import match

Task = Literal["bbox", "segm"]
Array = NDArray[Any]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREA_NAMES = ("all", "small", "medium", "large")
# Square pixels; both ends belong to a range, as in COCO's evaluation.
AREA_RANGES = np.array([[0, 1e5], [0, 32], [32, 96], [96, 1e5]]) ** 2
MAX_DETECTIONS = 300  # of an image, over all categories

WRONG, RIGHT, IGNORED = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class ImageDetections:
    """The detections of one image, in the order in which the model gave them."""

    image_id: int
    boxes: Array  # (N, 4) XYWH
    scores: Array  # (N,)
    category_ids: Array  # (N,) int64, of the data set
    # `counts` of N run-length codes; None from a model without masks.
    masks: list[str] | None
    mask_size: tuple[int, int]  # height, width of every mask

    def mask(self, number: int) -> dict[str, Any]:
        """Return a run-length code as COCO writes it."""
        assert self.masks is not None, "checked by the caller, who can name the images"
        return {"size": list(self.mask_size), "counts": self.masks[number]}


@dataclass(frozen=True, kw_only=True)
class _ImageTruth:
    """The annotations of one image, and the categories that are judged in it."""

    category_ids: Array  # (G,)
    boxes: Array  # (G, 4) XYWH
    areas: Array  # (G,)
    segmentations: list[Any]
    size: tuple[int, int]  # height, width
    judged: Array  # annotated, or found absent
    not_exhaustive: Array


class LvisTruth:
    """Annotations in LVIS's format, indexed by image."""

    def __init__(self, report: CocoReport) -> None:
        """Index a checked annotation file.

        Args:
            report: of a file in LVIS's format.
        """
        assert report.lvis is not None, "checked by the caller, who can name the cure"
        self.category_ids = np.array(report.category_ids)
        self.frequencies = np.array(report.lvis.frequencies)
        self.images: dict[int, _ImageTruth] = {}
        rows: dict[int, list[Mapping[str, Any]]] = {i["id"]: [] for i in report.document["images"]}
        for annotation in report.document["annotations"]:
            # LVIS's own evaluation has annotations without area neither found nor missed.
            if annotation["area"] > 0:
                rows[annotation["image_id"]].append(annotation)
        for image in sorted(report.document["images"], key=lambda image: image["id"]):
            self.images[image["id"]] = _image_truth(image, rows.pop(image["id"]))

    def num_truths(self) -> Array:
        """Return how many annotations count, ``(K, A)``."""
        counts = np.zeros((len(self.category_ids), len(AREA_RANGES)), np.int64)
        for image in self.images.values():
            inside = ~_outside(image.areas).T
            np.add.at(counts, np.searchsorted(self.category_ids, image.category_ids), inside)
        return counts


def _image_truth(image: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> _ImageTruth:
    categories = np.array([row["category_id"] for row in rows], np.int64)
    absent = np.array(image.get("neg_category_ids", []), np.int64)
    return _ImageTruth(
        category_ids=categories,
        boxes=np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        areas=np.array([row["area"] for row in rows], np.float64),
        segmentations=[row.get("segmentation") for row in rows],
        size=(image["height"], image["width"]),
        judged=np.union1d(categories, absent),
        not_exhaustive=np.array(image.get("not_exhaustive_category_ids", []), np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class LvisScores:
    """What came of an evaluation; -1 where there is no annotation."""

    precision: Array  # (T, R, K, A)
    recall: Array  # (T, K, A)
    frequencies: Array  # (K,) "r", "c" or "f"
    max_detections: int

    def metrics(self) -> dict[str, float]:
        """Return LVIS's metrics in percent, under its names; NaN where there is no annotation."""
        at_50, at_75 = (np.isclose(IOU_THRESHOLDS, iou) for iou in (0.5, 0.75))
        everywhere = self.precision[..., 0]
        metrics = {
            "AP": percent(everywhere),
            "AP50": percent(everywhere[at_50]),
            "AP75": percent(everywhere[at_75]),
        }
        for area in (1, 2, 3):
            metrics[f"AP{AREA_NAMES[area][0]}"] = percent(self.precision[..., area])
        for frequency in FREQUENCIES:
            chosen = everywhere[:, :, self.frequencies == frequency]
            metrics[f"AP{frequency}"] = percent(chosen)
        for area, letter in enumerate(("", "s", "m", "l")):
            metrics[f"AR{letter}@{self.max_detections}"] = percent(self.recall[..., area])
        return metrics

    def class_metrics(self) -> list[float]:
        """Return AP in percent of every category; NaN where there is no annotation."""
        return [percent(self.precision[:, :, k, 0]) for k in range(len(self.frequencies))]


def percent(values: Array) -> float:
    """Average the defined entries, times 100; NaN where none is."""
    defined = values[values > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")


def score_lvis(
    truth: LvisTruth,
    detections: Mapping[int, ImageDetections],
    task: Task,
    *,
    max_detections: int = MAX_DETECTIONS,
) -> LvisScores:
    """Match detections with annotations, and accumulate precision over recall.

    Args:
        truth: the annotations; masks have been checked to be there where the task needs them.
        detections: checked ones, by image id; an image that is not there has none.
        task: what is compared.
        max_detections: best scores of an image that count, over all categories.
    """
    parts = list(_outcomes(truth, detections, task, max_detections))
    shape = (len(AREA_RANGES), len(IOU_THRESHOLDS))
    categories = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
    scores = np.concatenate([np.zeros(0), *(part[1] for part in parts)])
    outcomes = np.concatenate([np.zeros((*shape, 0), np.uint8), *(p[2] for p in parts)], axis=2)
    del parts
    # Best score first; of equal ones the first image, and in it the first detection.
    order = np.lexsort((-scores, categories))
    categories, outcomes = categories[order], outcomes[:, :, order]
    num_truths = truth.num_truths()
    precision = -np.ones((shape[1], len(RECALLS), *num_truths.shape))
    recall = -np.ones((shape[1], *num_truths.shape))
    starts = np.searchsorted(categories, truth.category_ids, side="left")
    ends = np.searchsorted(categories, truth.category_ids, side="right")
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for area in np.flatnonzero(num_truths[k]):
            p, r = precision_and_recall(outcomes[area, :, start:end], num_truths[k, area])
            precision[:, :, k, area], recall[:, k, area] = p, r
    return LvisScores(
        precision=precision,
        recall=recall,
        frequencies=truth.frequencies,
        max_detections=max_detections,
    )


def precision_and_recall(outcomes: Array, num_truths: int) -> tuple[Array, Array]:
    """Return interpolated precision at every recall, and the recall that is reached.

    Args:
        outcomes: ``(T, D)`` of ``WRONG``, ``RIGHT``, ``IGNORED``, best score first.
        num_truths: annotations that count, at least 1.

    Returns:
        ``(T, R)`` and ``(T,)``.
    """
    precisions = np.zeros((len(outcomes), len(RECALLS)))
    if not outcomes.shape[1]:
        return precisions, np.zeros(len(outcomes))
    right = np.cumsum(outcomes == RIGHT, axis=1)
    judged = np.cumsum(outcomes != IGNORED, axis=1)
    recalls = right / num_truths
    precision = right / (judged + np.spacing(1.0))
    # The best precision at this recall or a higher one.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    for t, reached in enumerate(recalls):
        at = np.searchsorted(reached, RECALLS, side="left")
        inside = at < len(reached)
        precisions[t, inside] = precision[t, at[inside]]
    return precisions, recalls[:, -1]


def _outcomes(
    truth: LvisTruth,
    detections: Mapping[int, ImageDetections],
    task: Task,
    max_detections: int,
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield category ``(N,)``, score ``(N,)``, outcome ``(A, T, N)`` of what counts, by image."""
    for image_id, image in truth.images.items():
        found = detections.get(image_id)
        if found is None or not len(found.scores):
            continue
        scores = np.asarray(found.scores, np.float64)
        chosen = np.argsort(-scores, kind="stable")[:max_detections]
        chosen = chosen[np.isin(found.category_ids[chosen], image.judged)]
        areas = _areas(found, chosen, task)
        chosen, areas = chosen[areas > 0], areas[areas > 0]
        if len(chosen):
            outcomes = _image_outcomes(image, found, chosen, areas, task)
            yield found.category_ids[chosen], scores[chosen], outcomes


def _areas(found: ImageDetections, chosen: Array, task: Task) -> Array:
    """Of boxes or masks, by the task, in square pixels."""
    if task == "bbox":
        return np.asarray(found.boxes, np.float64)[chosen, 2:].prod(axis=1)
    # One by one: pycocotools 2.0.11 overflows on lists of more than 255.
    return np.array([mask_util.area(found.mask(i)) for i in chosen], np.float64)


def _outside(areas: Array) -> Array:
    """Whether areas are outside of each range, ``(A, N)``."""
    return (areas < AREA_RANGES[:, :1]) | (areas > AREA_RANGES[:, 1:])


def _image_outcomes(
    image: _ImageTruth, found: ImageDetections, chosen: Array, areas: Array, task: Task
) -> Array:
    """Return ``(A, T, N)`` outcomes of the chosen detections, best score first."""
    categories = found.category_ids[chosen]
    excused = _outside(areas) | np.isin(categories, image.not_exhaustive)
    outcomes = np.where(excused, IGNORED, WRONG).astype(np.uint8)
    outcomes = np.repeat(outcomes[:, None], len(IOU_THRESHOLDS), axis=1)
    for category in np.intersect1d(categories, image.category_ids):
        (rows,) = np.nonzero(categories == category)
        (truths,) = np.nonzero(image.category_ids == category)
        ious = _ious(image, truths, found, chosen[rows], task)
        ignored = _outside(image.areas[truths])
        matched = match(ious, ignored, IOU_THRESHOLDS)
        group = outcomes[:, :, rows]
        hit = matched >= 0
        lost = np.take_along_axis(ignored, matched.reshape(len(ignored), -1), axis=1)
        group[hit] = np.where(lost.reshape(hit.shape), IGNORED, RIGHT)[hit]
        outcomes[:, :, rows] = group
    return outcomes


def _ious(
    image: _ImageTruth, truths: Array, found: ImageDetections, rows: Array, task: Task
) -> Array:
    """Return ``(D, G)`` overlaps of detections with annotations."""
    no_crowds = [0] * len(truths)
    if task == "bbox":
        boxes = np.asarray(found.boxes, np.float64)[rows]
        return np.asarray(mask_util.iou(boxes, image.boxes[truths], no_crowds))
    given = [found.mask(i) for i in rows]
    wanted = [run_lengths(image.segmentations[i], image.size) for i in truths]
    return np.asarray(mask_util.iou(given, wanted, no_crowds))


def run_lengths(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return a mask as a compressed run-length code.

    Args:
        segmentation: polygons or run lengths, checked.
        size: height and width of the image.
    """
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, *size)
    return segmentation

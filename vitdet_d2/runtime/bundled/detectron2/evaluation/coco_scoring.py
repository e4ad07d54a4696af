# SPDX-License-Identifier: Apache-2.0
"""COCO average precision through pycocotools, from lists of plain dictionaries.

Vocabulary: a *result* is one detection in COCO's result format (``image_id``, ``category_id``,
``bbox`` in XYWH pixels, ``score``, and ``segmentation`` as RLE with ``counts`` as text).
``iou_type`` is ``"bbox"`` or ``"segm"``. Precision arrays are (IoU, recall, class, area, max dets).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitdet_d2.checks.evaluation_input import require_masks

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
# What each metric averages over: the IoU threshold (None: all ten) and the area range.
_SELECTION: dict[str, tuple[float | None, str]] = {
    "AP": (None, "all"),
    "AP50": (0.5, "all"),
    "AP75": (0.75, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}


def coco_from_dict(dataset: Mapping[str, Any]) -> COCO:
    """Index a COCO dictionary, without pycocotools' prints."""
    coco = COCO()
    coco.dataset = dict(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _detections(coco_gt: COCO, results: Sequence[Mapping[str, Any]], iou_type: str) -> COCO:
    """Index results as COCO annotations; unlike ``COCO.loadRes``, none at all is fine."""
    if iou_type == "segm":
        # The area decides between small, medium and large: here that of the mask, not of the box.
        # One by one: pycocotools 2.0.11 overflows on lists of more than 255.
        areas = [mask_util.area(r["segmentation"]) for r in results]
        keep = ("image_id", "category_id", "score", "segmentation")
    else:
        areas = [r["bbox"][2] * r["bbox"][3] for r in results]
        keep = ("image_id", "category_id", "score", "bbox")
    annotations = [
        {**{key: r[key] for key in keep}, "area": area, "id": number, "iscrowd": 0}
        for number, (r, area) in enumerate(zip(results, areas, strict=True), start=1)
    ]
    dataset = coco_gt.dataset
    return coco_from_dict(
        {
            "images": dataset["images"],
            "categories": dataset["categories"],
            "annotations": annotations,
        }
    )


def score_results(
    coco_gt: COCO,
    results: Sequence[Mapping[str, Any]],
    iou_type: str,
    *,
    img_ids: Sequence[int] | None = None,
    max_dets: int = 100,
) -> COCOeval:
    """Match results with the ground truth and accumulate precision over recall.

    Args:
        coco_gt: validated ground truth; every annotation has ``iscrowd`` and ``area``.
        results: validated results with dataset category ids; may be empty, which scores 0.
        iou_type: ``"bbox"`` or ``"segm"``.
        img_ids: the images to score; None scores all of the ground truth, also those without
            results.
        max_dets: detections per image and class that count, the best scores first.

    Returns:
        The pycocotools evaluation; its ``eval["precision"]`` has one entry on the last axis.

    Raises:
        DataError: masks are to be scored, and an annotation or a result has none.
    """
    if iou_type == "segm":
        require_masks(coco_gt.dataset, results, img_ids)
    evaluation = COCOeval(coco_gt, _detections(coco_gt, results, iou_type), iou_type)
    # COCO's own list is [1, 10, 100]; the first two only serve recalls that nobody reports here.
    evaluation.params.maxDets = [max_dets]
    if img_ids is not None:
        evaluation.params.imgIds = list(img_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _percent(precision: np.ndarray) -> float:
    """Average the defined entries, times 100; NaN where ground truth leaves none defined."""
    defined = precision[precision > -1]
    return float(np.mean(defined) * 100) if defined.size else math.nan


def main_metrics(evaluation: COCOeval) -> dict[str, float]:
    """Average precision in percent, overall and by IoU threshold and size of the object."""
    params, precision = evaluation.params, evaluation.eval["precision"]
    metrics = {}
    for name, (iou, area) in _SELECTION.items():
        chosen = precision if iou is None else precision[np.isclose(params.iouThrs, iou)]
        metrics[name] = _percent(chosen[:, :, :, params.areaRngLbl.index(area), -1])
    return metrics


def class_metrics(evaluation: COCOeval, names: Mapping[int, str]) -> dict[str, float]:
    """Average precision of every class under ``AP-<class name>``, in percent.

    Args:
        evaluation: an accumulated evaluation.
        names: from dataset category id to class name, in the order of the report.

    Returns:
        NaN for a class without ground truth, which the overall average leaves out as well.
    """
    position = {category: index for index, category in enumerate(evaluation.params.catIds)}
    area = evaluation.params.areaRngLbl.index("all")
    precision = evaluation.eval["precision"]
    return {
        f"AP-{name}": (
            _percent(precision[:, :, position[category], area, -1])
            if category in position
            else math.nan
        )
        for category, name in names.items()
    }


def format_columns(metrics: Mapping[str, float], headers: tuple[str, str], columns: int = 3) -> str:
    """Lay metrics out as a table of (name, value) column pairs; NaN is shown as ``n/a``.

    Args:
        metrics: name to value, read row by row.
        headers: the titles of the two columns of a pair.
        columns: how many pairs stand side by side.
    """
    cells = [
        (name, "n/a" if math.isnan(value) else f"{value:.3f}") for name, value in metrics.items()
    ]
    columns = max(1, min(columns, len(cells)))
    widths = [max(map(len, texts)) for texts in zip(headers, *cells, strict=True)]
    pair = "| {:<%d} | {:<%d} " % tuple(widths)  # noqa: UP031  (braces inside a format string)
    lines = [pair.format(*headers) * columns + "|"]
    lines.append(f"|:{'-' * (widths[0] + 1)}|:{'-' * (widths[1] + 1)}" * columns + "|")
    cells += [("", "")] * (-len(cells) % columns)
    for first in range(0, len(cells), columns):
        lines.append("".join(pair.format(*c) for c in cells[first : first + columns]) + "|")
    return "\n".join(lines)

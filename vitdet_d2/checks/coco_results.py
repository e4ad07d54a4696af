# SPDX-License-Identifier: Apache-2.0
"""Validation of detections in COCO's result format, before an evaluation may print a number.

Source: pycocotools 2.0.11, measured: a NaN box scores AP 1.0, an empty list raises IndexError.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from .coco_masks import check_rles
from .coco_report import ResultsReport
from .coco_values import Namer, integer_column, number_array, quote

NO_RESULTS = (
    "no detections at all: AP is 0; was the model trained and its weights loaded, heads included, "
    "and is the score threshold below 1?"
)


def check_coco_results(
    results: Sequence[Mapping[str, Any]],
    valid_image_ids: Collection[int],
    category_ids: Collection[int],
    *,
    image_sizes: Mapping[int, tuple[int, int]] | None = None,
    source: str = "detections",
) -> ResultsReport:
    """Check detections in COCO's result format.

    Args:
        results: one per detection: ``image_id``, ``category_id``, ``score``, and ``bbox`` (XYWH in
            pixels) or ``segmentation``.
        valid_image_ids: ids of the images that were evaluated.
        category_ids: ids of the categories in the annotation file.
        image_sizes: image id -> (height, width); when given, run-length masks are checked too,
            which is only needed for results from outside.
        source: name of the results in messages.

    Returns:
        How many there are, with a hint when there are none.

    Raises:
        DataError: NaN or infinite boxes or scores (the images are listed), unknown images or
            categories, malformed entries.
    """
    if not len(results):
        return ResultsReport(num_results=0, num_images=0, hint=NO_RESULTS)
    if not all(isinstance(result, Mapping) for result in results):
        raise DataError(f"{source}: expected a list of detections, one object each")

    def name(row: int) -> str:
        return f"{source}: detection {row} (image {quote(results[row].get('image_id'))})"

    image_ids = _known(results, "image_id", valid_image_ids, name)
    _known(results, "category_id", category_ids, name)
    scores = _numbers([result.get("score") for result in results], "score", name)
    refuse_non_finite(source, "scores", scores[:, None], image_ids)
    box_rows = [row for row, result in enumerate(results) if "bbox" in result]
    boxes = _boxes(results, box_rows, name)
    refuse_non_finite(source, "boxes", boxes, image_ids[box_rows])
    negative = np.flatnonzero((boxes[:, 2:] < 0).any(1))
    if len(negative):
        row = box_rows[int(negative[0])]
        raise DataError(
            f"{name(row)}: expected a width and height >= 0, got {quote(results[row]['bbox'])}; "
            "boxes are [x, y, width, height]"
        )
    _check_masks(results, image_ids, box_rows, image_sizes, name)
    return ResultsReport(num_results=len(results), num_images=len(np.unique(image_ids)), hint="")


def _known(
    results: Sequence[Mapping[str, Any]], key: str, allowed: Collection[int], name: Namer
) -> np.ndarray:
    """Column of ids, all of them in ``allowed``.

    Raises:
        DataError: one is not.
    """
    column, _ = integer_column([result.get(key) for result in results], key, name)
    known = np.fromiter(allowed, np.int64, len(allowed))
    unknown = np.flatnonzero(~np.isin(column, known))
    if len(unknown):
        row = int(unknown[0])
        raise DataError(
            f"{name(row)}: {key} {column[row]} is not in the annotation file ({len(unknown)} such "
            "detections); evaluate against the file that the model was run on"
        )
    return column


def _numbers(values: list[Any], key: str, name: Namer) -> np.ndarray:
    """Column of numbers, NaN and infinity included.

    Raises:
        DataError: a value is no number.
    """
    numbers = number_array(values)
    if numbers is None:
        bad = next(row for row, value in enumerate(values) if number_array([value]) is None)
        raise DataError(f"{name(bad)}: expected a number {key!r}, got {quote(values[bad])}")
    return numbers


def _boxes(results: Sequence[Mapping[str, Any]], rows: list[int], name: Namer) -> np.ndarray:
    flat: list[Any] = []
    for row in rows:
        box = results[row]["bbox"]
        if not isinstance(box, (list, tuple, np.ndarray)) or len(box) != 4:
            raise DataError(f"{name(row)}: expected 'bbox' [x, y, width, height], got {quote(box)}")
        flat.extend(box)
    return _numbers(flat, "bbox", lambda position: name(rows[position // 4])).reshape(-1, 4)


def refuse_non_finite(source: str, what: str, values: np.ndarray, image_ids: np.ndarray) -> None:
    """Refuse numbers that no evaluation can score.

    Args:
        source: name of the results in the message.
        what: name of the numbers.
        values: ``(N, C)``.
        image_ids: ``(N,)``.

    Raises:
        DataError: one is NaN or infinite; the images are listed.
    """
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        images = np.unique(image_ids[bad])
        listed = ", ".join(str(number) for number in images[:10])
        raise DataError(
            f"{source}: {int(bad.sum())} {what} are NaN or infinite, on {len(images)} images: "
            f"{listed}{', ...' if len(images) > 10 else ''}; the weights are damaged or training "
            "has diverged: evaluate an earlier checkpoint"
        )


def _check_masks(
    results: Sequence[Mapping[str, Any]],
    image_ids: np.ndarray,
    box_rows: list[int],
    image_sizes: Mapping[int, tuple[int, int]] | None,
    name: Namer,
) -> None:
    """Every detection has a box or a mask; masks are run lengths of the image's size.

    Raises:
        DataError: one has neither, or its mask is malformed.
    """
    if len(box_rows) < len(results):
        for row, result in enumerate(results):
            if "bbox" not in result and "segmentation" not in result:
                raise DataError(f"{name(row)}: expected 'bbox' or 'segmentation', got neither")
    if image_sizes is None:
        return
    rows = [row for row, result in enumerate(results) if result.get("segmentation")]
    masks = [results[row]["segmentation"] for row in rows]
    for row, mask in zip(rows, masks, strict=True):
        if not isinstance(mask, dict):
            raise DataError(f"{name(row)}: expected a run-length mask, got {quote(mask)}")
    sizes = np.array([image_sizes[int(image_ids[row])] for row in rows], np.int64).reshape(-1, 2)
    check_rles(masks, sizes, lambda position: name(rows[position]))

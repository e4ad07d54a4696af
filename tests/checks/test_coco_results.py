# SPDX-License-Identifier: Apache-2.0
"""Detections: what an evaluation refuses to score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vitdet_d2.checks import check_coco_results
from vitdet_d2.errors import DataError

NAN = float("nan")


def _result(**changes: Any) -> dict[str, Any]:
    result = {"image_id": 1, "category_id": 5, "bbox": [1.0, 2.0, 3.0, 0.0], "score": 0.5}
    return {**result, **changes}


def _check(results: list[Any], **options: Any) -> Any:
    return check_coco_results(results, [1, 2], {5, 6}, **options)


def test_valid_results() -> None:
    results = [_result(), _result(image_id=2, score=np.float32(1), bbox=np.ones(4, np.float32))]
    report = _check(results)
    assert (report.num_results, report.num_images, report.hint) == (2, 2, "")


def test_no_results_give_a_hint() -> None:
    report = _check([])
    assert report.num_results == 0
    assert "score threshold" in report.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [1, 2, NAN, 4]}, "1 boxes are NaN or infinite, on 1 images: 1;"),
        ({"bbox": [1, 2, float("inf"), 4]}, "1 boxes are NaN or infinite"),
        ({"score": NAN}, "1 scores are NaN or infinite, on 1 images: 1;"),
        ({"score": None}, r"detection 1 \(image 1\): expected a number 'score', got None"),
        ({"bbox": [1, 2, 3]}, r"detection 1 .*expected 'bbox'"),
        ({"bbox": [1, 2, -3, 4]}, r"detection 1 .*expected a width and height >= 0"),
        ({"bbox": [1, 2, "3", 4]}, r"detection 1 .*expected a number 'bbox', got '3'"),
        ({"image_id": 9}, r"image_id 9 is not in the annotation file \(1 such"),
        ({"category_id": 0}, r"category_id 0 is not in the annotation file"),
        ({"category_id": "cat"}, r"expected an integer 'category_id', got 'cat'"),
    ],
)
def test_bad_results_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _check([_result(), _result(**changes)])


def test_images_of_nan_boxes_are_listed() -> None:
    results = [_result(image_id=image, bbox=[NAN] * 4) for image in (2, 1, 2)]
    with pytest.raises(DataError, match="3 boxes are NaN or infinite, on 2 images: 1, 2;"):
        _check(results)


def test_results_need_a_box_or_a_mask() -> None:
    bare = _result()
    del bare["bbox"]
    with pytest.raises(DataError, match=r"detection 1 .*expected 'bbox' or 'segmentation'"):
        _check([_result(), bare])
    with pytest.raises(DataError, match="expected a list of detections"):
        _check([3])


def test_masks_are_compared_with_the_image_size() -> None:
    sizes = {1: (2, 3), 2: (4, 5)}
    good = _result(segmentation={"size": [2, 3], "counts": [2, 4]})
    assert _check([good], image_sizes=sizes).num_results == 1
    for image, counts in ((2, [2, 4]), (1, [2, 5])):
        bad = {**good, "image_id": image}
        bad["segmentation"] = {"size": [2, 3], "counts": counts}
        with pytest.raises(DataError, match=r"detection 0 .*encode the mask again"):
            _check([bad], image_sizes=sizes)

# SPDX-License-Identifier: Apache-2.0
"""Scoring on arrays, against pycocotools itself: every entry of every array, to the bit."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from pycocotools.cocoeval import COCOeval

from vitdet_d2.evaluation.coco_scorers import choose_scorer, indexed
from vitdet_d2.evaluation.coco_scoring import MAX_DETECTIONS, score_coco
from vitdet_d2.evaluation.coco_truth import CocoTruth

SIZE = 120
CATEGORIES = (2, 5, 6, 11)  # nothing of the last one is annotated
ARRAYS = ("precision", "recall", "scores")


def _box(random: np.random.Generator) -> list[float]:
    x, y = random.integers(0, 80, 2)
    # Whole pixels of few sizes: many equal overlaps, and some at a threshold exactly.
    width, height = random.choice([8, 16, 20, 40], 2)
    return [float(x), float(y), float(width), float(height)]


def _mask(box: list[float]) -> dict[str, Any]:
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    mask = mask_util.merge(mask_util.frPyObjects([corners], SIZE, SIZE))
    return {"size": mask["size"], "counts": mask["counts"].decode("ascii")}


def _truth(random: np.random.Generator) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image in range(1, 16):
        for _ in range(random.integers(0, 9) if image != 4 else 0):
            box = _box(random)
            x, y, width, height = box
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            crowd = int(random.random() < 0.15)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(random.choice(CATEGORIES[:3])),
                    "bbox": box,
                    "area": width * height * random.choice([1.0, 9.0, 100.0]),
                    "iscrowd": crowd,
                    "segmentation": _mask(box) if crowd else [corners],
                }
            )
    return {
        "images": [
            {"id": i, "height": SIZE, "width": SIZE, "file_name": ""} for i in range(15, 0, -1)
        ],
        "categories": [{"id": i, "name": str(i)} for i in reversed(CATEGORIES)],
        "annotations": annotations,
    }


def _results(random: np.random.Generator, truth: dict[str, Any]) -> list[dict[str, Any]]:
    results = []
    for image in random.permutation(np.arange(1, 16)).tolist():
        near = [a for a in truth["annotations"] if a["image_id"] == image]
        for _ in range(random.integers(0, 40) if image != 7 else 0):
            box, category = _box(random), int(random.choice(CATEGORIES))
            if near and random.random() < 0.7:
                hit = near[random.integers(len(near))]
                shift = random.integers(-2, 3, 4)
                box = [float(v) for v in np.maximum(np.array(hit["bbox"]) + shift, 1)]
                category = hit["category_id"]
            results.append(
                {
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "score": float(random.integers(0, 12)) / 11,  # many are equal
                    "segmentation": _mask(box),
                }
            )
    return results


def _pycocotools(
    truth: dict[str, Any], results: list[dict[str, Any]], task: str, images: list[int] | None
) -> COCOeval:
    keep = {"image_id", "category_id", "score", "bbox" if task == "bbox" else "segmentation"}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = indexed(copy.deepcopy(truth))
        found = coco.loadRes([{k: v for k, v in r.items() if k in keep} for r in results])
        evaluation = COCOeval(coco, found, task)
        if images is not None:
            evaluation.params.imgIds = images
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("images", [None, [3, 4, 7, 9, 12]])
@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_arrays_and_summary_are_those_of_pycocotools(seed, task, images):
    random = np.random.default_rng(seed)
    truth = _truth(random)
    results = _results(random, truth)
    expected = _pycocotools(truth, results, task, images)
    for name in (True, "hotcoco"):
        scorer = choose_scorer(name)
        limits = list(MAX_DETECTIONS)
        scores = scorer(indexed(truth), CocoTruth(truth), results, task, images, limits)
        for array in ARRAYS:
            np.testing.assert_array_equal(scores.eval[array], expected.eval[array], array)
        np.testing.assert_array_equal(scores.stats, expected.stats)
        assert list(scores.params.imgIds) == list(expected.params.imgIds)
        assert list(scores.params.catIds) == list(expected.params.catIds)
    assert 0.05 < expected.stats[0] < 0.95


@pytest.mark.parametrize("limits", [[1], [1, 3], [1, 10, 300]])
def test_limits_of_detections_are_those_of_pycocotools(limits):
    random = np.random.default_rng(9)
    truth = _truth(random)
    results = _results(random, truth)
    arguments = (indexed(truth), CocoTruth(truth), results, "bbox", None, limits)
    expected = choose_scorer(False)(*arguments)
    for name in (True, "hotcoco"):
        scores = choose_scorer(name)(*arguments)
        for array in ARRAYS:
            np.testing.assert_array_equal(scores.eval[array], expected.eval[array], array)
        np.testing.assert_array_equal(scores.stats, expected.stats)


@pytest.mark.parametrize("name", [True, False, "hotcoco"])
def test_nothing_found_scores_0_and_nothing_annotated_has_no_score(name):
    truth = _truth(np.random.default_rng(1))
    scores = choose_scorer(name)(indexed(truth), CocoTruth(truth), [], "segm", None, [1, 10, 100])
    precision = scores.eval["precision"]
    assert (precision[:, :, :3, 0] == 0).all()
    assert (precision[:, :, 3] == -1).all()
    assert scores.stats[0] == 0


def test_no_annotations_at_all_have_no_score():
    truth = {**_truth(np.random.default_rng(1)), "annotations": []}
    result = {"image_id": 1, "category_id": 2, "bbox": [1.0, 1.0, 5.0, 5.0], "score": 0.5}
    assert (score_coco(CocoTruth(truth), [result], "bbox").stats == -1).all()


def test_an_unknown_scorer_is_refused():
    with pytest.raises(ValueError, match="expected True, False or 'hotcoco', got 'cold'"):
        choose_scorer("cold")

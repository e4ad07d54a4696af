# SPDX-License-Identifier: Apache-2.0
"""LVIS's average precision against loops, LVIS's own package, and cases drawn by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation import slow_lvis, toy_lvis
from vitdet_d2.checks import check_coco_annotations
from vitdet_d2.evaluation.lvis_detections import packed
from vitdet_d2.evaluation.lvis_matching import match
from vitdet_d2.evaluation.lvis_scoring import LvisTruth, score_lvis

GOLDEN = json.loads(Path(__file__).with_name("golden_lvis.json").read_text())


def score(
    dataset: dict[str, Any], found: list[dict[str, Any]], task: str = "bbox", limit: int = 300
) -> Any:
    truth = LvisTruth(check_coco_annotations(dataset, None))
    detections = {
        image["id"]: packed(image["id"], [r for r in found if r["image_id"] == image["id"]], True)
        for image in dataset["images"]
    }
    return score_lvis(truth, detections, task, max_detections=limit)


def assert_same(ours: dict[str, float], theirs: dict[str, float | None]) -> None:
    assert list(ours) == list(theirs)
    expected = [np.nan if value is None else value for value in theirs.values()]
    np.testing.assert_allclose(list(ours.values()), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['seed']}-{c['task']}")
def test_equals_the_package_lvis(case):
    dataset = toy_lvis.ground_truth(case["seed"])
    found = toy_lvis.results(dataset, case["seed"])
    ours = score(dataset, found, case["task"], case["limit"])
    assert_same(ours.metrics(), case["metrics"])


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(20, 26))
def test_equals_loops(seed, task):
    dataset = toy_lvis.ground_truth(seed, num_images=5)
    found = toy_lvis.results(dataset, seed, per_image=10)
    limit = 300 if seed % 2 else 6
    ours = score(dataset, found, task, limit).metrics()
    assert_same(ours, slow_lvis.evaluate(dataset, found, task, limit))


def _drawn(*boxes: tuple[int, int, list[float]], **lists: Any) -> dict[str, Any]:
    """Two images of 100 px and two classes, with annotations (image, category, box)."""
    dataset = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100}
            | lists.get(f"of_{i}", {})
            for i in (1, 2)
        ],
        "categories": [
            {"id": 4, "name": "rare one", "frequency": "r"},
            {"id": 8, "name": "frequent one", "frequency": "f"},
        ],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3]}
            for n, (i, c, b) in enumerate(boxes)
        ],
    }
    for image in dataset["images"]:
        image.setdefault("neg_category_ids", [])
        image.setdefault("not_exhaustive_category_ids", [])
    return dataset


def _found(*rows: tuple[int, int, list[float], float]) -> list[dict[str, Any]]:
    mask = {"size": [100, 100], "counts": "PPP1"}
    return [
        {"image_id": i, "category_id": c, "bbox": b, "score": s, "segmentation": mask}
        for i, c, b, s in rows
    ]


HERE, THERE = [10.0, 10.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        # Image 2 was never searched for the class: what is found there counts nowhere.
        ({}, 100.0),
        # Absent from image 2: the better-scored detection there is wrong. 1 of 2 is right.
        ({"of_2": {"neg_category_ids": [4]}}, 50.0),
        # Another class being absent says nothing about this one.
        ({"of_2": {"neg_category_ids": [8]}}, 100.0),
        # Absent, and yet not exhaustive: ignored.
        ({"of_2": {"neg_category_ids": [4], "not_exhaustive_category_ids": [4]}}, 100.0),
    ],
)
@pytest.mark.parametrize("judge", ["ours", "loops"])
def test_detections_in_another_image(lists, expected, judge):
    dataset = _drawn((1, 4, HERE), **lists)
    found = _found((2, 4, HERE, 0.9), (1, 4, HERE, 0.8))
    metrics = _metrics(judge, dataset, found)
    assert metrics["AP"] == metrics["APr"] == pytest.approx(expected)
    assert np.isnan(metrics["APf"])


@pytest.mark.parametrize(("open_classes", "expected"), [([], 50.0), ([4], 100.0), ([8], 50.0)])
@pytest.mark.parametrize("judge", ["ours", "loops"])
def test_a_detection_beside_the_annotation(open_classes, expected, judge):
    """Wrong, unless not every instance of its class was annotated."""
    dataset = _drawn((1, 4, HERE), of_1={"not_exhaustive_category_ids": open_classes})
    found = _found((1, 4, THERE, 0.9), (1, 4, HERE, 0.8))
    assert _metrics(judge, dataset, found)["AP"] == pytest.approx(expected)


@pytest.mark.parametrize(("limit", "expected"), [(3, 100.0), (2, 100 * 51 / 101), (1, 0.0)])
@pytest.mark.parametrize("judge", ["ours", "loops"])
def test_the_limit_is_over_all_classes_before_any_is_left_out(limit, expected, judge):
    # The best detection is of a class that is not judged in the image, and takes a place.
    # With 2 places one of two annotations is found: precision 1 at 51 of 101 recalls.
    dataset = _drawn((1, 4, HERE), (1, 4, THERE))
    found = _found((1, 8, HERE, 0.9), (1, 4, HERE, 0.8), (1, 4, THERE, 0.7))
    metrics = _metrics(judge, dataset, found, limit)
    assert metrics["AP"] == pytest.approx(expected)
    assert metrics[f"AR@{limit}"] == pytest.approx({3: 100, 2: 50, 1: 0}[limit])


@pytest.mark.parametrize("judge", ["ours", "loops"])
def test_sizes(judge):
    """A box of 20 x 20 is small; found as 40 x 20 it is a miss at 0.55 and more."""
    dataset = _drawn((1, 4, HERE), (1, 8, [10.0, 10.0, 80.0, 80.0]))
    found = _found((1, 4, [10.0, 10.0, 40.0, 20.0], 0.9), (1, 8, [10.0, 10.0, 80.0, 80.0], 0.8))
    metrics = _metrics(judge, dataset, found)
    assert metrics["APs"] == metrics["APr"] == pytest.approx(10.0)
    assert metrics["APm"] == metrics["APf"] == pytest.approx(100.0)
    assert metrics["AP"] == pytest.approx(55.0)
    assert metrics["AP50"] == pytest.approx(100.0)
    assert metrics["AP75"] == pytest.approx(50.0)
    assert np.isnan(metrics["APl"])


@pytest.mark.parametrize("judge", ["ours", "loops"])
def test_every_annotation_is_found_once(judge):
    """Two detections of one annotation: the better-scored is right, the other one wrong."""
    dataset = _drawn((1, 4, HERE), (1, 4, THERE))
    found = _found((1, 4, HERE, 0.9), (1, 4, HERE, 0.8), (1, 4, THERE, 0.7))
    # Precision 1 up to recall 1/2 (51 of 101 recalls), then 2/3.
    expected = 100 * (51 + 50 * 2 / 3) / 101
    assert _metrics(judge, dataset, found)["AP"] == pytest.approx(expected)


@pytest.mark.parametrize("judge", ["ours", "loops"])
def test_nothing_found_and_nothing_to_find(judge):
    assert _metrics(judge, _drawn((1, 4, HERE)), [])["AP"] == 0
    empty = _metrics(judge, _drawn(of_1={"neg_category_ids": [4]}), _found((1, 4, HERE, 0.9)))
    assert all(np.isnan(value) for value in empty.values())


def _metrics(judge: str, dataset: dict[str, Any], found: list[dict[str, Any]], limit: int = 300):
    if judge == "ours":
        return score(dataset, found, "bbox", limit).metrics()
    return slow_lvis.evaluate(dataset, found, "bbox", limit)


def test_class_metrics_are_in_the_order_of_the_ids():
    dataset = _drawn((1, 8, HERE))
    rare, frequent = score(dataset, _found((1, 8, HERE, 0.9))).class_metrics()
    assert np.isnan(rare)
    assert frequent == pytest.approx(100.0)


def test_matching_prefers_what_counts_and_then_the_last_of_equals():
    ious = np.array([[0.9, 0.7, 0.7], [0.9, 0.7, 0.7], [0.9, 0.7, 0.7], [0.9, 0.9, 0.9]])
    ignored = np.array([[False, False, False], [True, False, False]])
    matched = match(ious, ignored, np.array([0.5, 0.8]))
    assert matched[0].tolist() == [[0, 2, 1, -1], [0, -1, -1, 2]]
    # Where the first annotation is ignored, it comes after both others.
    assert matched[1].tolist() == [[2, 1, 0, -1], [0, -1, -1, 2]]

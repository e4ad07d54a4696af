# SPDX-License-Identifier: Apache-2.0
"""TIDE by LVIS's rules: AP of LVIS's evaluation, a slow reference, and what is excused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from tests.evaluation import toy_lvis
from tests.evaluation.slow_tide import SlowTide
from vitdet_d2.checks import check_coco_annotations
from vitdet_d2.evaluation.lvis_detections import packed
from vitdet_d2.evaluation.lvis_scoring import LvisTruth, Task, percent, score_lvis
from vitdet_d2.evaluation.tide import ErrorAnalysis, analyse_errors
from vitdet_d2.evaluation.tide_data import tide_data


def analyse(truth: dict[str, Any], found: list[dict[str, Any]], task: Task) -> ErrorAnalysis:
    report = check_coco_annotations(truth)
    return analyse_errors(tide_data(report, found, task, positive_iou=0.5, max_detections=300))


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(3))
def test_ap_is_that_of_lvis_evaluation(seed: int, task: Task) -> None:
    truth = toy_lvis.ground_truth(seed)
    found = toy_lvis.results(truth, seed)
    report = check_coco_annotations(truth)
    detections = {
        image["id"]: packed(
            image["id"], [row for row in found if row["image_id"] == image["id"]], True
        )
        for image in truth["images"]
    }
    scores = score_lvis(LvisTruth(report), detections, task)
    wanted = [percent(scores.precision[0, :, k, 0]) for k in range(len(report.category_ids))]
    np.testing.assert_allclose(analyse(truth, found, task).class_aps, wanted)


@pytest.mark.parametrize("seed", range(3))
def test_matches_slow_reference(seed: int) -> None:
    truth = toy_lvis.ground_truth(seed)
    truth["annotations"] = [row for row in truth["annotations"] if row["area"] > 0]
    found = [row for row in toy_lvis.results(truth, seed) if min(row["bbox"][2:]) > 0]
    slow = SlowTide(truth, found)
    analysis = analyse(truth, found, "bbox")
    assert {name: cost.count for name, cost in analysis.costs.items()} == slow.counts()
    for name, cost in analysis.costs.items():
        assert cost.delta_ap == pytest.approx(slow.ap(name) - slow.ap(), abs=1e-9), name


def test_an_image_judges_its_own_categories_only() -> None:
    box, empty = [10.0, 10.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]
    truth: dict[str, Any] = {
        "images": [
            {"id": 1, "file_name": "1.png", "height": 100, "width": 100,
             "neg_category_ids": [2], "not_exhaustive_category_ids": []},
        ],
        "categories": [{"id": i, "name": str(i), "frequency": "f"} for i in (1, 2, 3)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 400.0,
             "segmentation": []},
        ],
    }  # fmt: skip
    right = {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9}

    def background(category: int, data: dict[str, Any] = truth) -> int:
        wrong = {"image_id": 1, "category_id": category, "bbox": empty, "score": 0.95}
        analysis = analyse(data, [right, wrong], "bbox")
        assert analysis.costs["background"].count + analysis.num_excused == 1
        return analysis.costs["background"].count

    assert [background(category) for category in (1, 2, 3)] == [1, 1, 0]
    partly = copy.deepcopy(truth)
    partly["images"][0]["not_exhaustive_category_ids"] = [1]
    assert background(1, partly) == 0

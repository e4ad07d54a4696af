# SPDX-License-Identifier: Apache-2.0
"""TIDE: one planted error of each kind; a slow reference; tidecv and hotcoco; AP of evaluation."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.evaluation.slow_tide import SlowTide
from tests.evaluation.toy_tide import dataset, lvis_case, random_case, results, with_masks
from vitdet_d2.checks import check_coco_annotations
from vitdet_d2.evaluation.tide import MAIN_ERRORS, SPECIAL_ERRORS, ErrorAnalysis, analyse_errors
from vitdet_d2.evaluation.tide_data import Task, tide_data

GOLDEN = json.loads(Path(__file__).with_name("golden_tide.json").read_text())
A1, A2, A3 = [10, 10, 40, 40], [70, 10, 40, 40], [130, 10, 40, 40]
B1, B2 = [10, 110, 40, 40], [70, 110, 40, 40]
NOTHING = [130, 110, 40, 40]
# Two classes of two objects, all found: AP is 100.
OBJECTS = [(1, 1, A1, 0), (1, 1, A2, 0), (1, 2, B1, 0), (1, 2, B2, 0)]
FINDS = [(1, 1, A1, 0.9), (1, 1, A2, 0.7), (1, 2, B1, 0.9), (1, 2, B2, 0.7)]
# AP of a class in percent, each from its precision at the 101 recalls. Of two objects: a wrong
# detection between the finds; of three: two finds, without and with a wrong detection between.
WRONG_OF_2 = 100 * (51 + 50 * 2 / 3) / 101
TWO_OF_3 = 100 * 67 / 101
WRONG_AND_2_OF_3 = 100 * (34 + 33 * 2 / 3) / 101


def analyse(
    truth: dict[str, Any], found: list[dict[str, Any]], task: Task = "bbox", most: int = 100
) -> ErrorAnalysis:
    report = check_coco_annotations(truth)
    return analyse_errors(tide_data(report, found, task, positive_iou=0.5, max_detections=most))


def planted(
    objects: list[Any], detections: list[Any], task: Task = "bbox", num_classes: int = 2
) -> ErrorAnalysis:
    truth = dataset(OBJECTS + objects, num_classes, 1)
    return analyse(truth, with_masks(results(FINDS + detections)), task)


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize(
    ("kind", "objects", "detections", "ap", "positives", "negatives"),
    [
        ("classification", [(1, 1, A3, 0)], [(1, 2, A3, 0.8)], (TWO_OF_3, WRONG_OF_2),
         (0, 100 - WRONG_OF_2), (100 - TWO_OF_3, 0)),
        # IoU 0.4: 16 of 40 columns.
        ("localisation", [(1, 1, A3, 0)], [(1, 1, [130, 10, 16, 40], 0.8)],
         (WRONG_AND_2_OF_3, 100), (TWO_OF_3 - WRONG_AND_2_OF_3, 0),
         (WRONG_OF_2 - WRONG_AND_2_OF_3, 0)),
        ("both", [], [(1, 2, [10, 10, 16, 40], 0.8)], (100, WRONG_OF_2),
         (0, 100 - WRONG_OF_2), (0, 0)),
        ("duplicate", [], [(1, 1, A1, 0.8)], (WRONG_OF_2, 100), (100 - WRONG_OF_2, 0), (0, 0)),
        ("background", [], [(1, 1, NOTHING, 0.8)], (WRONG_OF_2, 100),
         (100 - WRONG_OF_2, 0), (0, 0)),
        ("missed", [(1, 1, A3, 0)], [], (TWO_OF_3, 100), (0, 0), (100 - TWO_OF_3, 0)),
    ],
)  # fmt: skip
def test_one_planted_error_gives_exactly_that_kind(
    task: Task,
    kind: str,
    objects: list[Any],
    detections: list[Any],
    ap: tuple[float, float],
    positives: tuple[float, float],
    negatives: tuple[float, float],
) -> None:
    analysis = planted(objects, detections, task)
    np.testing.assert_allclose(analysis.class_aps, ap)
    assert analysis.ap == pytest.approx(sum(ap) / 2)
    for name in MAIN_ERRORS:
        cost = analysis.costs[name]
        assert cost.count == (name == kind), name
        # Repaired, everything is right.
        wanted = 100 - sum(ap) / 2 if name == kind else 0
        assert cost.delta_ap == pytest.approx(wanted, abs=1e-9), name
    wrong, lost = (analysis.costs[name] for name in SPECIAL_ERRORS)
    np.testing.assert_allclose(wrong.class_delta_aps, positives, atol=1e-9)
    np.testing.assert_allclose(lost.class_delta_aps, negatives, atol=1e-9)
    assert wrong.delta_ap == pytest.approx(sum(positives) / 2, abs=1e-9)
    assert lost.delta_ap == pytest.approx(sum(negatives) / 2, abs=1e-9)
    assert (wrong.count, lost.count) == (len(detections), len(objects))


def test_no_error_costs_nothing() -> None:
    analysis = planted([], [])
    assert analysis.ap == pytest.approx(100)
    assert all(not cost.count and not cost.delta_ap for cost in analysis.costs.values())


def counts(analysis: ErrorAnalysis) -> dict[str, int]:
    return {name: cost.count for name, cost in analysis.costs.items() if cost.count}


def test_overlaps_on_a_threshold() -> None:
    half, tenth = [130, 10, 20, 40], [130, 10, 4, 40]
    found = planted([(1, 1, A3, 0)], [(1, 1, half, 0.8)])
    assert not counts(found)  # 0.5 is a find
    twice = planted([(1, 1, A3, 0)], [(1, 1, A3, 0.9), (1, 1, half, 0.8)])
    assert counts(twice) == {"localisation": 1, "false_positives": 1}
    other = planted([(1, 1, A3, 0)], [(1, 1, A3, 0.9), (1, 2, half, 0.8)])
    assert counts(other) == {"classification": 1, "false_positives": 1}
    near = planted([(1, 1, A3, 0)], [(1, 1, A3, 0.9), (1, 1, tenth, 0.8)])
    assert counts(near) == {"localisation": 1, "false_positives": 1}
    far = planted([(1, 1, A3, 0)], [(1, 1, A3, 0.9), (1, 2, tenth, 0.8)])
    assert counts(far) == {"background": 1, "false_positives": 1}


def test_a_repair_of_a_found_object_is_a_removal() -> None:
    analysis = planted([], [(1, 2, A1, 0.8)])
    cost = analysis.costs["classification"]
    assert cost.count == 1
    np.testing.assert_allclose(cost.class_delta_aps, [0, 100 - WRONG_OF_2], atol=1e-9)


def test_the_detection_of_best_score_repairs_an_object() -> None:
    # The lower one is taken away by its own repair, and never finds the object too.
    near, low = [130, 10, 16, 40], (1, 1, [130, 10, 12, 40], 0.3)
    analysis = planted([(1, 1, A3, 0)], [(1, 1, near, 0.8), low])
    assert counts(analysis) == {"localisation": 2, "false_positives": 2, "false_negatives": 1}
    assert analysis.ap + analysis.costs["localisation"].delta_ap == pytest.approx(100)
    # Of two kinds: that of the better score repairs, as in the authors' toolbox.
    analysis = planted([(1, 1, A3, 0)], [(1, 2, A3, 0.8), (1, 1, near, 0.6)])
    assert analysis.costs["classification"].class_delta_aps[0] == pytest.approx(100 - TWO_OF_3)
    assert analysis.costs["localisation"].delta_ap == pytest.approx(0)


def test_a_class_without_objects_is_in_no_mean() -> None:
    analysis = planted([], [(1, 3, NOTHING, 0.99)], num_classes=3)
    assert analysis.ap == pytest.approx(100)
    assert np.isnan(analysis.class_aps[2])
    assert counts(analysis) == {"background": 1, "false_positives": 1}
    assert np.isnan(analysis.costs["background"].class_delta_aps[2])
    assert analysis.costs["background"].delta_ap == 0


def test_a_class_that_is_missed_altogether() -> None:
    truth = dataset([*OBJECTS, (1, 3, A3, 0)], 3, 1)
    analysis = analyse(truth, results(FINDS))
    assert analysis.ap == pytest.approx(200 / 3)
    assert analysis.costs["missed"].delta_ap == pytest.approx(100 / 3)
    with_wrong = analyse(truth, results([*FINDS, (1, 3, NOTHING, 0.2)]))
    assert counts(with_wrong)["missed"] == 1
    assert with_wrong.costs["missed"].delta_ap == pytest.approx(0, abs=1e-9)


def test_nothing_found_at_all() -> None:
    analysis = analyse(dataset(OBJECTS, 2, 1), [])
    assert analysis.ap == 0
    assert counts(analysis) == {"missed": 4, "false_negatives": 4}
    assert analysis.costs["missed"].delta_ap == 100
    assert analysis.costs["false_positives"].delta_ap == 0


def test_a_detection_in_a_crowd_is_no_error() -> None:
    crowd = (1, 1, [125, 105, 100, 80], 1)
    analysis = planted([crowd], [(1, 1, NOTHING, 0.8)])
    assert analysis.ap == pytest.approx(100)
    assert not counts(analysis)
    assert analysis.num_excused == 1
    other_class = planted([crowd], [(1, 2, NOTHING, 0.8)])
    assert counts(other_class) == {"background": 1, "false_positives": 1}
    # Excused, but the reason why an object is not found.
    part = planted([crowd, (1, 1, NOTHING, 0)], [(1, 1, [130, 110, 16, 40], 0.8)])
    assert counts(part) == {"localisation": 1, "false_negatives": 1}
    assert part.class_aps[0] == pytest.approx(TWO_OF_3)
    assert part.costs["localisation"].delta_ap == pytest.approx((100 - TWO_OF_3) / 2)


def test_best_detections_of_an_image_over_all_classes() -> None:
    truth = dataset(OBJECTS, 2, 1)
    analysis = analyse(truth, results([*FINDS, (1, 1, NOTHING, 0.1)]), most=4)
    assert not counts(analysis)
    assert analysis.class_detections.tolist() == [2, 2]


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_matches_slow_reference(seed: int, crowds: bool) -> None:
    truth, found = random_case(seed, crowds=crowds)
    slow = SlowTide(truth, found)
    analysis = analyse(truth, found)
    assert {name: cost.count for name, cost in analysis.costs.items()} == slow.counts()
    base = slow.ap()
    assert analysis.ap == pytest.approx(base)
    for name, cost in analysis.costs.items():
        assert cost.delta_ap == pytest.approx(slow.ap(name) - base, abs=1e-9), name
    assert sum(cost.count for cost in analysis.costs.values()) > 20


@pytest.mark.parametrize(
    "case", GOLDEN["cases"], ids=lambda case: f"{case['format']}-{case['task']}-{case['seed']}"
)
def test_matches_tidecv(case: dict[str, Any]) -> None:
    if case["format"] == "lvis":
        truth, found = lvis_case(case["seed"])
    else:
        truth, found = random_case(case["seed"], crowds=True)
        found = with_masks(found)
    analysis = analyse(truth, found, case["task"])
    assert analysis.ap == pytest.approx(case["AP"])
    for name, delta in case["dAP"].items():
        assert analysis.costs[name].delta_ap == pytest.approx(delta, abs=1e-9), name
    for name, count in case["counts"].items():
        assert analysis.costs[name].count == count, name


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(10, 14))
def test_matches_hotcoco(seed: int, task: Task, tmp_path: Path) -> None:
    truth, found = random_case(seed, crowds=False)
    found = with_masks(found)
    (tmp_path / "a.json").write_text(json.dumps(truth))
    (tmp_path / "p.json").write_text(json.dumps(found))
    coco = hotcoco.COCO(str(tmp_path / "a.json"))
    evaluation = hotcoco.COCOeval(coco, coco.load_res(str(tmp_path / "p.json")), task)
    evaluation.evaluate()
    theirs = evaluation.tide_errors()
    names = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), MAIN_ERRORS, strict=True))
    names |= dict(zip(("FP", "FN"), SPECIAL_ERRORS, strict=True))
    analysis = analyse(truth, found, task)
    assert analysis.ap == pytest.approx(100 * theirs["ap_base"])
    for short, name in names.items():
        delta = 100 * theirs["delta_ap"][short]
        assert analysis.costs[name].delta_ap == pytest.approx(delta, abs=1e-9), name
    for short, count in theirs["counts"].items():
        assert analysis.costs[names[short]].count == count, short


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_ap_is_that_of_cocos_evaluation(task: Task) -> None:
    truth, found = random_case(21, crowds=True)
    found = with_masks(found)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)  # which it marks
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), task)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    np.testing.assert_allclose(analyse(truth, found, task).class_aps, 100 * precision.mean(0))


def test_costs_of_classes_average_to_the_whole() -> None:
    truth, found = random_case(3, crowds=True)
    for name, cost in analyse(truth, found).costs.items():
        assert np.mean(cost.class_delta_aps) == pytest.approx(cost.delta_ap), name
        assert cost.class_counts.sum() == cost.count

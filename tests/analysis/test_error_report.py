# SPDX-License-Identifier: Apache-2.0
"""An analysis of errors as text, JSON and CSV: the same numbers everywhere."""

from __future__ import annotations

import json

import pytest

from tests.evaluation.toy_tide import dataset, random_case, results
from vitdet_d2.analysis.error_report import ErrorReport, as_json, as_rows, as_text
from vitdet_d2.checks import check_coco_annotations
from vitdet_d2.evaluation.tide import analyse_errors
from vitdet_d2.evaluation.tide_data import tide_data


def report(per_class: bool = True, extra_class: bool = False) -> ErrorReport:
    truth, found = random_case(2, crowds=True)
    if extra_class:
        truth["categories"].append({"id": 9, "name": "ghost"})
    data = tide_data(
        check_coco_annotations(truth), found, "bbox", positive_iou=0.5, max_detections=100
    )
    return ErrorReport(
        predictions="p.json",
        annotations="a.json",
        task="bbox",
        positive_iou=0.5,
        background_iou=0.1,
        data=data,
        analysis=analyse_errors(data),
        notes=["a note"],
        per_class=per_class,
    )


def test_text_has_every_kind_and_class() -> None:
    shown = report()
    text = as_text(shown)
    assert text.startswith(f"p.json: box AP50 {shown.analysis.ap:.2f}\n")
    assert f"{shown.analysis.num_excused} more excused" in text
    for name, cost in shown.analysis.costs.items():
        (line,) = [x for x in text.splitlines() if x.startswith(name.replace("_", " "))]
        words = line.removeprefix(name.replace("_", " ")).split()
        assert words[:2] == [f"{cost.delta_ap:.2f}", str(cost.count)]
    (line,) = [x for x in text.splitlines() if x.startswith("class 3")]
    assert line.split()[3] == f"{shown.analysis.class_aps[2]:.2f}"
    assert "class 3" not in as_text(report(per_class=False))
    assert "n/a" not in text
    assert max(map(len, as_text(report(per_class=False)).splitlines())) <= 80


def test_class_without_objects() -> None:
    shown = report(extra_class=True)
    (line,) = [x for x in as_text(shown).splitlines() if x.startswith("ghost")]
    assert line.split() == ["ghost", "0", *["n/a"] * 9]
    ghost = json.loads(json.dumps(as_json(shown), allow_nan=False))["classes"][-1]
    assert (ghost["id"], ghost["AP"], ghost["errors"]["missed"]["dAP"]) == (9, None, None)


def test_json_and_csv_hold_the_same() -> None:
    shown = report()
    content = as_json(shown)
    titles, everything, *classes = as_rows(shown)
    assert len(classes) == len(content["classes"]) == 4
    for row, entry in zip([everything, *classes], [content, *content["classes"]], strict=True):
        cells = dict(zip(titles, row, strict=True))
        assert cells["AP"] == entry["AP"]
        for name, error in entry["errors"].items():
            assert cells[f"{name}_dAP"] == error["dAP"]
            assert cells[f"{name}_count"] == error["count"]
    total = sum(entry["errors"]["background"]["count"] for entry in content["classes"])
    assert total == content["errors"]["background"]["count"] > 0
    assert content["notes"] == ["a note"]
    assert "classes" not in as_json(report(per_class=False))
    assert len(as_rows(report(per_class=False))) == 2


def test_perfect_detections() -> None:
    truth = dataset([(1, 1, [10, 10, 40, 40], 0)], 1, 1)
    found = results([(1, 1, [10, 10, 40, 40], 0.5)])
    data = tide_data(
        check_coco_annotations(truth), found, "bbox", positive_iou=0.75, max_detections=100
    )
    shown = ErrorReport(
        predictions="p.json", annotations="a.json", task="segm", positive_iou=0.75,
        background_iou=0.1, data=data, analysis=analyse_errors(data, positive_iou=0.75), notes=[],
        per_class=False,
    )  # fmt: skip
    assert shown.title == "mask AP75 100.00"
    assert as_json(shown)["AP"] == pytest.approx(100)
    assert "0.1 to 0.75" in as_text(shown)

# SPDX-License-Identifier: Apache-2.0
"""Reports: the text a person reads, the JSON a program reads."""

from __future__ import annotations

import json
import math

from vitdet_d2.evaluation import flatten_metrics, format_report, summary_line, write_report

RESULTS = {
    "bbox": {"AP": 41.25, "AP50": 60.0, "AP75": 9.96, "AP-cat": 50.0, "AP-t-rex": math.nan},
    "segm": {"AP": 36.0, "AP50": 55.55, "AP75": math.nan, "AP-cat": 40.04, "AP-t-rex": math.nan},
}


def test_report_lines_up():
    assert format_report(RESULTS).split("\n") == [
        "           AP  AP50  AP75",
        "box AP   41.2  60.0  10.0",
        "mask AP  36.0  55.5   n/a",
        "",
        "class  box AP  mask AP",
        "cat      50.0     40.0",
        "t-rex     n/a      n/a",
        "",
        "n/a: no ground truth; it counts in no average",
    ]


def test_report_of_one_task_without_classes():
    text = format_report({"bbox": {"AP": 1.0, "AP50": 2.0}})
    assert text == "         AP  AP50\nbox AP  1.0   2.0"


def test_many_classes_stand_side_by_side():
    results = {"bbox": {"AP": 1.0, **{f"AP-kind {i}": i + 0.04 for i in range(23)}}}
    lines = format_report(results).split("\n")
    assert lines[3:5] == [
        "class   box AP    class    box AP    class    box AP",
        "kind 0     0.0    kind 10    10.0    kind 20    20.0",
    ]
    assert lines[13] == "kind 9     9.0    kind 19    19.0"
    assert len(lines) == 14
    assert max(map(len, lines)) <= 80


def test_hundreds_of_classes_are_left_to_the_json():
    results = {"bbox": {"AP": 1.0, **{f"AP-{i}": 1.0 for i in range(101)}}}
    assert format_report(results).endswith("AP of each of the 101 classes: see the JSON")


def test_summary_is_one_line():
    assert summary_line(RESULTS) == "box AP 41.2 (AP50 60.0), mask AP 36.0 (AP50 55.5)"
    assert summary_line({"bbox": {"AP": math.nan}}) == "box AP n/a (AP50 n/a)"


def test_nothing_evaluated_is_said():
    assert summary_line({}) == format_report({}) == "nothing was evaluated"


def test_flat_names_keep_every_metric():
    flat = flatten_metrics(RESULTS)
    assert len(flat) == 10
    assert flat["bbox/AP"] == 41.25
    assert flat["segm/AP-cat"] == 40.04


def test_json_has_null_for_missing_values(tmp_path):
    path = write_report(RESULTS, tmp_path / "deep" / "report.json")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    read = json.loads(path.read_text(), parse_constant=refuse)
    assert read["bbox"] == {
        "AP": 41.25,
        "AP50": 60.0,
        "AP75": 9.96,
        "AP-cat": 50.0,
        "AP-t-rex": None,
    }
    assert list(read) == ["bbox", "segm"]

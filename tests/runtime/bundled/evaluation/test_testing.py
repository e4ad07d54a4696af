# SPDX-License-Identifier: Apache-2.0
"""Printing, flattening and verifying results."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import pytest
from detectron2.evaluation import print_csv_format, verify_results
from detectron2.evaluation.testing import flatten_results_dict

RESULTS = {"bbox": {"AP": 41.25, "AP50": math.nan, "AP-cat": 7.0}, "speed": 3}


def test_csv_lines_leave_classes_out(caplog):
    with caplog.at_level(logging.INFO):
        print_csv_format(RESULTS)
    assert [record.message for record in caplog.records] == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 41.2500,nan",
        "copypaste: speed=3",
    ]


def test_csv_refuses_a_list():
    with pytest.raises(TypeError, match="expected a mapping from task to metrics, got list"):
        print_csv_format([RESULTS])


def test_flatten_goes_to_any_depth():
    nested = {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    assert flatten_results_dict(nested) == {"a/b/c": 1, "a/d": 2, "e": 3}


def _cfg(*rows):
    return SimpleNamespace(TEST=SimpleNamespace(EXPECTED_RESULTS=list(rows)))


@pytest.mark.parametrize("rows", [(), [("bbox", "AP", 41.0, 0.25)]])
def test_results_within_tolerance_pass(rows):
    assert verify_results(_cfg(*rows), RESULTS)


@pytest.mark.parametrize(
    "row",
    [
        ("bbox", "AP", 41.0, 0.2),
        ("bbox", "AP50", 41.0, 100.0),
        ("bbox", "AP75", 41.0, 100.0),
        ("segm", "AP", 41.0, 100.0),
    ],
)
def test_results_off_missing_or_nan_exit(row, caplog):
    with pytest.raises(SystemExit) as stop:
        verify_results(_cfg(("bbox", "AP", 41.25, 0.1), row), RESULTS)
    assert stop.value.code == 1
    assert "verification failed" in caplog.text

# SPDX-License-Identifier: Apache-2.0
"""Histories of runs: resumed, under way, cut off, without evaluation, with NaN, other files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from detectron2.utils.events import EventStorage, JSONWriter

from vitdet_d2.analysis.run_metrics import RunMetrics, metrics_file, read_metrics
from vitdet_d2.errors import DataError


def training(iteration: int) -> dict[str, Any]:
    row = {"iteration": iteration, "total_loss": 1.5, "lr": 0.1, "fast_rcnn/cls_accuracy": 0.5}
    return {**row, "mask_rcnn/accuracy": 0.25}


def evaluation(iteration: int, ap: float | None) -> dict[str, Any]:
    return {"iteration": iteration, "bbox/AP": ap}


def history(tmp_path: Path, *rows: Mapping[str, Any] | str) -> RunMetrics:
    file = tmp_path / "metrics.json"
    lines = (row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    file.write_text("".join(lines))
    return read_metrics(file)


def values(metrics: RunMetrics) -> dict[int, float]:
    return {e.iterations: e.values["bbox/AP"] for e in metrics.evaluations}


def test_iterations_are_those_completed(tmp_path: Path) -> None:
    middle = {**training(9), **evaluation(9, 20.0)}
    run = history(tmp_path, training(4), middle, training(19), evaluation(20, 30.0))
    assert values(run) == {10: 20.0, 20: 30.0}
    assert (run.iterations, run.num_resumed, run.notes) == (20, 0, ())
    assert {name for e in run.evaluations for name in e.values} == {"bbox/AP"}


def test_matches_what_the_writer_writes(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    writer = JSONWriter(str(file))
    with EventStorage(0) as storage:
        for iteration in range(20):
            storage.iter = iteration
            storage.put_scalar("total_loss", 1.0)
            if iteration == 9:
                storage.put_scalar("bbox/AP", 10.0, smoothing_hint=False)
            if iteration in (9, 19):
                writer.write()
        storage.iter = 20
        storage.put_scalar("bbox/AP", 20.0, smoothing_hint=False)
        writer.write()
    writer.close()
    run = read_metrics(file)
    assert values(run) == {10: 10.0, 20: 20.0}
    assert run.iterations == 20


def test_what_was_written_last_counts(tmp_path: Path) -> None:
    first = [training(9), evaluation(9, 1.0), training(19), evaluation(19, 2.0), training(29)]
    again = [training(14), training(19), evaluation(19, 5.0)]
    run = history(tmp_path, *first, *again)
    assert values(run) == {10: 1.0, 20: 5.0}
    assert (run.iterations, run.num_resumed) == (20, 1)
    # Once more from further back: the evaluation after it is gone, as the weights are.
    run = history(tmp_path, *first, *again, training(12))
    assert values(run) == {10: 1.0}
    assert (run.iterations, run.num_resumed) == (13, 2)


def test_an_evaluation_that_a_resumed_run_makes_up_for(tmp_path: Path) -> None:
    run = history(tmp_path, training(9), evaluation(9, 7.0), training(12))
    assert values(run) == {10: 7.0}
    assert run.num_resumed == 0


def test_cut_off_line(tmp_path: Path) -> None:
    run = history(tmp_path, training(9), evaluation(9, 7.0), '{"iteration": 19, "bbox/A')
    assert values(run) == {10: 7.0}
    assert run.notes == ("the last line is cut off: the run is under way, or was killed",)


def test_a_file_cut_anywhere(tmp_path: Path) -> None:
    rows = [training(9), evaluation(9, 7.0), training(19), evaluation(20, 8.0)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    first = len(json.dumps(rows[0]))
    for length in range(first, len(text), 3):
        run = history(tmp_path, text[:length])
        assert values(run).items() <= {10: 7.0, 20: 8.0}.items()
        assert bool(run.notes) == (not text[:length].endswith(("}", "\n"))), length


def test_lines_that_are_no_metrics(tmp_path: Path) -> None:
    odd = ["[1]\n", '{"a": 1}\n', '{"iteration": null}\n', '{"iteration": NaN}\n', "\n", "\x00\n"]
    run = history(tmp_path, training(9), *odd, evaluation(9, 7.0))
    assert values(run) == {10: 7.0}
    assert run.notes == ("5 lines are no metrics and are left out (line 2, ...)",)


def test_nan_and_null_are_not_measured(tmp_path: Path) -> None:
    rows = [evaluation(9, float("nan")), evaluation(19, None), evaluation(29, 3.0)]
    run = history(tmp_path, *rows, training(30))
    assert [dict(e.values) for e in run.evaluations] == [{}, {}, {"bbox/AP": 3.0}]
    assert run.undefined == {"bbox/AP"}


def test_without_evaluation(tmp_path: Path) -> None:
    run = history(tmp_path, training(9))
    assert (run.evaluations, run.iterations) == ((), 10)
    empty = history(tmp_path)
    assert (empty.evaluations, empty.iterations, empty.notes) == ((), 0, ())


@pytest.mark.parametrize(
    "text", ["hello\n", '{\n "train": 1\n}\n', '[{"iteration": 1}]', "\x80\x02"]
)
def test_other_files(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"no line is a JSON object with an 'iteration'"):
        history(tmp_path, text)


def test_where_the_file_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder has no metrics\.json"):
        metrics_file(tmp_path)
    with pytest.raises(DataError, match=r"nothing: there is no such file"):
        metrics_file(tmp_path / "nothing")
    history(tmp_path, training(1))
    assert metrics_file(tmp_path) == metrics_file(tmp_path / "metrics.json")

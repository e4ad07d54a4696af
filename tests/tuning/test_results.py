# SPDX-License-Identifier: Apache-2.0
"""What is read from the files of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitdet_d2.engine.checkpoint_store import CheckpointStore
from vitdet_d2.tuning.results import NoValueError, explain, is_complete, read_value


def finished_run(folder: Path, lines: list[dict[str, float]], *, final: bool = True) -> Path:
    """A run of 20 iterations with these lines of metrics."""
    import torch

    folder.mkdir()
    store = CheckpointStore(folder)
    path = store.save({"model": {"w": torch.zeros(1)}}, iteration=19, meta={})
    if final:
        store.save_final(path)
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "metrics.json").write_text(f'{text}{{"bbox/AP": 99.0, "itera')
    return folder


def test_final_and_best(tmp_path: Path) -> None:
    lines = [
        {"iteration": 9, "bbox/AP": 30.0},
        {"iteration": 19, "total_loss": 1.0},
        {"iteration": 20, "bbox/AP": 20.0, "segm/AP": 10.0},
    ]
    run = finished_run(tmp_path / "run", lines)
    assert is_complete(run, "bbox/AP")
    assert read_value(run, "bbox/AP", "final") == 20.0
    assert read_value(run, "bbox/AP", "best") == 30.0
    assert read_value(run, "segm/AP", "final") == 10.0


def test_a_run_without_its_last_evaluation_is_not_through(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", [{"iteration": 9, "bbox/AP": 30.0}])
    assert not is_complete(run, "bbox/AP")
    with pytest.raises(NoValueError, match=r"no bbox/AP of the final weights.*it has bbox/AP"):
        read_value(run, "bbox/AP", "best")


def test_a_run_without_final_weights_is_not_through(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", [{"iteration": 20, "bbox/AP": 30.0}], final=False)
    assert not is_complete(run, "bbox/AP")
    assert not is_complete(tmp_path / "missing", "bbox/AP")
    with pytest.raises(NoValueError, match="holds no model_final"):
        read_value(run, "bbox/AP", "final")


def test_an_undefined_metric_is_named(tmp_path: Path) -> None:
    lines = [{"iteration": 20, "bbox/AP": float("nan"), "segm/AP50": 1.0}]
    run = finished_run(tmp_path / "run", lines)
    with pytest.raises(NoValueError, match=r"undefined\); it has bbox/AP, segm/AP50"):
        read_value(run, "bbox/AP", "final")
    assert not is_complete(run, "bbox/AP")


@pytest.mark.parametrize(
    ("returncode", "log", "expected"),
    [
        (1, "iter 3\nerror: losses are NaN in iteration 3\n", "losses are NaN in iteration 3"),
        (1, "error: first\nTraceback\nerror: second", "second"),
        (1, "Traceback\n  File\nKeyError: 'x'\n", "exit code 1: Traceback | File | KeyError: 'x'"),
        (1, "", "exit code 1: nothing was printed"),
        (-9, "iter 3", "the process was killed by SIGKILL (the system may have run out of memory)"),
        (-11, "", "the process was killed by SIGSEGV"),
        (143, "stopped", "the process was stopped by a signal from outside, after it had saved"),
    ],
)
def test_errors_in_one_line(returncode: int, log: str, expected: str) -> None:
    told = explain(returncode, log)
    assert told.startswith(expected)
    assert "\n" not in told

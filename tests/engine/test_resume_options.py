# SPDX-License-Identifier: Apache-2.0
"""The resume contract with accumulation, clipping, averaged and best weights all in use."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.test_resume import assert_equal, assert_same_run, load, metrics
from tests.engine.test_two_processes import run_both, start_both
from tests.engine.zygote import Zygote, wait_for

TRAIN = "tests.engine.tiny_run:train"
OPTIONS: dict[str, Any] = {
    "accumulate": 2,
    "clip_grad": {"max_norm": 0.5},
    "ema": {"decay": 0.7},
    "best_metric": "bbox/score",
    "with_score": True,
    "eval_period": 4,
}
BESIDE = ("model_ema_final.pth", "model_best.pth")


def options_in_use(data: Path, out: Path) -> dict[str, Any]:
    return {"data": str(data), "output_dir": str(out), **OPTIONS}


def assert_same_files(a: Path, b: Path) -> None:
    """As `assert_same_run`, and the weights that stand beside the checkpoints."""
    assert_same_run(a, b)
    for name in BESIDE:
        left, right = load(a, name), load(b, name)
        for state in (left, right):
            state["vitdet_d2"].pop("recipe")
        assert_equal(left, right, name)
    best = [json.loads((run / "model_best.json").read_text())["best"] for run in (a, b)]
    assert best[0] == best[1]


@pytest.fixture(scope="module")
def reference(zygote: Zygote, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    log = run.parent / "log"
    assert zygote.run(TRAIN, log, **options_in_use(tiny_data, run)) == 0
    return run


def test_samples_and_iterations(reference: Path) -> None:
    state = load(reference)
    assert state["iteration"] == 11
    assert state["sampler"]["samples"] == 12 * 2 * 2
    assert [line["iteration"] for line in metrics(reference) if "total_loss" in line] == [
        *(2, 5, 8, 11)
    ]


def test_average_is_saved_evaluated_and_not_trained_on(reference: Path) -> None:
    state, final = load(reference), load(reference, "model_ema_final.pth")
    assert_equal(final["model"], state["ema"])
    assert not torch.equal(state["ema"]["conv.weight"], state["model"]["conv.weight"])
    assert torch.equal(state["ema"]["norm.running_var"], state["model"]["norm.running_var"])
    assert "optimizer" not in final
    assert final["vitdet_d2"]["thing_classes"] == ["round", "square"]


def test_average_over_the_run_equals_a_slow_reference(zygote: Zygote, tiny_data: Path) -> None:
    """From a checkpoint of every iteration, whose raw weights are averaged again here."""
    run = tiny_data / "every"
    job = {**options_in_use(tiny_data, run), "checkpointer": {"period": 1}, "max_iter": 6}
    assert zygote.run(TRAIN, tiny_data / "log", **job) == 0
    states = [load(run, f"model_{i:07d}.pth") for i in range(6)]
    shutil.rmtree(run)
    for name in ("conv.weight", "norm.bias", "out.weight"):
        slow = states[0]["ema"][name].double()
        for state in states[1:]:
            slow = 0.7 * slow + 0.3 * state["model"][name].double()
            torch.testing.assert_close(state["ema"][name].double(), slow, rtol=1e-5, atol=1e-6)


def test_best_weights_are_those_of_the_highest_score(reference: Path) -> None:
    scores = {
        line["iteration"]: line["bbox/score"] for line in metrics(reference) if "bbox/score" in line
    }
    assert list(scores) == [3, 7, 12]
    highest = max(scores, key=scores.__getitem__)
    best = json.loads((reference / "model_best.json").read_text())
    assert best["best"] == {"metric": "bbox/score", "value": scores[highest]}
    assert best["iteration"] == min(highest, 11)
    checkpoint = load(reference, f"model_{best['iteration']:07d}.pth")
    assert_equal(load(reference, "model_best.pth")["model"], checkpoint["ema"])


@pytest.mark.parametrize(
    ("place", "iteration"),
    # Between the batches of an iteration (call 9 is the second one of iteration 4); in the
    # evaluation after iteration 3 (its second batch); while a checkpoint is written.
    [("step", 9), ("eval", 1), ("save", 7)],
)
def test_killed_and_resumed_equals_uninterrupted(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path, place: str, iteration: int
) -> None:
    run = tmp_path / "run"
    job = options_in_use(tiny_data, run)
    pause = {"folder": str(tmp_path), "place": place, "iteration": iteration}
    pid = zygote.start(TRAIN, tmp_path / "log", **job, pause=pause)
    wait_for((tmp_path / "waiting").exists)
    os.kill(pid, signal.SIGKILL)
    assert zygote.wait(pid) == -signal.SIGKILL
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="auto") == 0
    assert_same_files(run, reference)


def test_stopped_inside_an_iteration_finishes_its_batches(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = options_in_use(tiny_data, run)
    pause = {"folder": str(tmp_path), "place": "step", "iteration": 8}
    pid = zygote.start(TRAIN, tmp_path / "log", **job, pause=pause)
    wait_for((tmp_path / "waiting").exists)
    os.kill(pid, signal.SIGTERM)
    (tmp_path / "go").touch()
    assert zygote.wait(pid) == 143
    stopped = load(run, "model_0000004.pth")
    assert (stopped["iteration"], stopped["sampler"]["samples"]) == (4, 20)
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="required") == 0
    left, right = load(run), load(reference)
    for key in ("model", "ema", "optimizer", "rng", "sampler"):
        assert_equal(left[key], right[key], key)


def test_final_average_missing_after_a_kill_is_written(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    (run / "model_ema_final.pth").unlink()
    job = options_in_use(tiny_data, run)
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="required") == 0
    left, right = (load(folder, "model_ema_final.pth")["model"] for folder in (run, reference))
    assert_equal(left, right)


def test_checkpoint_without_an_average_starts_one_and_says_so(
    zygote: Zygote, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = {**options_in_use(tiny_data, run), "eval_period": 0}
    without = {**job, "ema": {"decay": None}, "max_iter": 4}
    assert zygote.run(TRAIN, tmp_path / "log", **without) == 0
    assert "ema" not in load(run)
    assert not (run / "model_ema_final.pth").exists()
    start = load(run)["model"]["out.weight"].double()
    assert zygote.run(TRAIN, tmp_path / "log", **{**job, "max_iter": 5}, resume="required") == 0
    assert "no averaged weights; the average starts at its own" in (tmp_path / "log").read_text()
    state = load(run)
    expected = 0.7 * start + 0.3 * state["model"]["out.weight"].double()
    torch.testing.assert_close(state["ema"]["out.weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_misspelt_metric_loses_nothing_and_can_be_cured(
    zygote: Zygote, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = options_in_use(tiny_data, run)
    wrong = {**job, "best_metric": "bbox/skore"}
    assert zygote.run(TRAIN, tmp_path / "log", **wrong) == 2
    text = (tmp_path / "log").read_text()
    assert "there is no metric 'bbox/skore'; there are bbox/AP, bbox/score" in text
    assert (run / "model_0000003.pth").exists()
    assert not (run / "model_best.pth").exists()
    once = {**job, "max_iter": 5}
    assert zygote.run(TRAIN, tmp_path / "log", **once, resume="required") == 0
    # The evaluation that ended the first run counts.
    assert "after iteration 3 is the best so far" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_two_processes_killed_and_resumed_equal_uninterrupted(
    zygote: Zygote, tiny_data: Path, tmp_path: Path
) -> None:
    whole, run = tmp_path / "whole" / "run", tmp_path / "run"
    for folder in (whole, run):
        folder.mkdir(parents=True)
    assert run_both(zygote, TRAIN, whole, **options_in_use(tiny_data, whole)) == [0, 0]
    job = options_in_use(tiny_data, run)
    pause = {"folder": str(tmp_path), "place": "step", "iteration": 15, "rank": 1}
    pids = start_both(zygote, TRAIN, run, **job, pause=pause)
    wait_for((tmp_path / "waiting").exists)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert [zygote.wait(pid) for pid in pids] == [-signal.SIGKILL] * 2
    assert run_both(zygote, TRAIN, run, **job, resume="required") == [0, 0]
    assert load(run)["sampler"]["samples"] == 12 * 2 * 2
    assert_same_files(run, whole)

# SPDX-License-Identifier: Apache-2.0
"""The resume contract: killed and resumed equals uninterrupted, bit by bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.zygote import Zygote, wait_for

TRAIN = "tests.engine.tiny_run:train"
# What depends on the clock, not on the run.
CLOCK = ("time", "data_time", "rank_data_time", "eta_seconds")


def load(folder: Path, name: str = "model_final.pth") -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)


def assert_equal(a: Any, b: Any, place: str = "") -> None:
    assert type(a) is type(b), place
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), place
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            assert_equal(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{place}[{i}]")
    else:
        assert a == b, place


def assert_same_run(a: Path, b: Path, *, extra_line: int | None = None) -> None:
    """Weights, optimizer, schedule, sampler, generators, and metrics apart from the clock.

    A run that stops in good order writes a line of metrics for its last iteration.
    """
    left, right = load(a), load(b)
    for state in (left, right):
        state["vitdet_d2"].pop("recipe")  # names the output folder
        state["metrics"] = {k: v for k, v in state["metrics"].items() if k not in CLOCK}
    assert_equal(left, right)
    periodic = {line["iteration"] for line in metrics(b)} if extra_line is not None else set()
    extra = {extra_line} - periodic
    assert [line for line in metrics(a) if line["iteration"] not in extra] == metrics(b)


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    # Detectron2's own writer leaves the lines that it writes together in any order.
    lines.sort(key=lambda line: line["iteration"])
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


@pytest.fixture(scope="module")
def reference(zygote: Zygote, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve iterations without a break."""
    folder = tmp_path_factory.mktemp("reference")
    notes = folder / "notes"
    log = folder / "log"
    out = folder / "run"
    assert zygote.run(TRAIN, log, data=str(tiny_data), output_dir=str(out), notes=str(notes)) == 0
    return folder


def test_learning_rates_are_those_of_the_schedule(reference: Path) -> None:
    """Warm-up over 3.6 of 12 iterations from 0.1, a tenth from iteration 8 on."""
    rates = {m["iteration"]: m["lr"] for m in metrics(reference / "run") if "lr" in m}
    warm = 0.1 + 0.9 * (2 / 12) / 0.3
    assert rates == pytest.approx({2: 0.01 * warm, 5: 0.01, 8: 0.001, 11: 0.001})


def test_evaluation_is_not_repeated_in_metrics(reference: Path) -> None:
    found = [m["iteration"] for m in metrics(reference / "run") if "bbox/AP" in m]
    assert found == [4, 9, 12]


@pytest.mark.parametrize(
    ("place", "iteration"),
    # In the first step; in a step after an odd number of checkpoints; in the evaluation after
    # iteration 4 (batch 3); while a later checkpoint is written; between a checkpoint and the
    # metrics of its iteration, also of the last.
    [("step", 0), ("step", 7), ("eval", 3), ("save", 5), ("saved", 5), ("saved", 11)],
)
def test_killed_and_resumed_equals_uninterrupted(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path, place: str, iteration: int
) -> None:
    notes = tmp_path / "notes"
    job = {"data": str(tiny_data), "output_dir": str(tmp_path / "run"), "notes": str(notes)}
    pause = {"folder": str(tmp_path), "place": place, "iteration": iteration}
    pid = zygote.start(TRAIN, tmp_path / "log", **job, pause=pause)
    wait_for((tmp_path / "waiting").exists)
    os.kill(pid, signal.SIGKILL)
    assert zygote.wait(pid) == -signal.SIGKILL
    notes.write_text("")
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="auto") == 0
    assert not list((tmp_path / "run").glob("*.tmp-*"))
    read = notes.read_text().splitlines()
    expected = (reference / "notes").read_text().splitlines()
    assert read == expected[len(expected) - len(read) :]
    assert (len(read) == len(expected)) == (place == "step" and iteration == 0)
    assert_same_run(tmp_path / "run", reference / "run")


def test_killed_in_an_evaluation_whose_iteration_is_logged(
    zygote: Zygote, tiny_data: Path, tmp_path: Path
) -> None:
    """Losses and evaluation stand in one line, as they do without a break."""
    job = {"data": str(tiny_data), "eval_period": 3, "max_iter": 8}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert zygote.run(TRAIN, tmp_path / "log", **job, output_dir=str(whole)) == 0
    pause = {"folder": str(tmp_path), "place": "eval", "iteration": 3}
    pid = zygote.start(TRAIN, tmp_path / "log", **job, output_dir=str(broken), pause=pause)
    wait_for((tmp_path / "waiting").exists)
    os.kill(pid, signal.SIGKILL)
    assert zygote.wait(pid) == -signal.SIGKILL
    assert not (broken / "metrics.json").read_text(), "killed before iteration 2 is written"
    assert zygote.run(TRAIN, tmp_path / "log", **job, output_dir=str(broken), resume="auto") == 0
    assert {"bbox/AP", "total_loss", "lr"} <= metrics(broken)[0].keys()
    assert_same_run(broken, whole)


def test_killed_before_the_final_copy_is_completed(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = {"data": str(tiny_data), "output_dir": str(run)}
    pause = {"folder": str(tmp_path), "place": "final", "iteration": 0}
    pid = zygote.start(TRAIN, tmp_path / "log", **job, pause=pause)
    wait_for((tmp_path / "waiting").exists)
    os.kill(pid, signal.SIGKILL)
    assert zygote.wait(pid) == -signal.SIGKILL
    assert not (run / "model_final.pth").exists()
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="required") == 0
    assert_equal(load(run)["model"], load(reference / "run")["model"])
    # The evaluation that was still due.
    assert metrics(run)[-1] == {"bbox/AP": 7.0, "iteration": 12}


def test_resume_of_a_complete_run_changes_nothing(
    zygote: Zygote, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = {"data": str(tiny_data), "output_dir": str(run), "max_iter": 3}
    assert zygote.run(TRAIN, tmp_path / "log", **job) == 0
    files, lines = sorted(p.name for p in run.glob("model_*")), metrics(run)
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="required") == 0
    assert sorted(p.name for p in run.glob("model_*")) == files
    assert metrics(run) == lines


def test_killed_at_random_moments_equals_uninterrupted(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path
) -> None:
    """Kills at random times, many of them inside a save, until a run comes through."""
    delays = random.Random(7)
    job = {"data": str(tiny_data), "output_dir": str(tmp_path / "run"), "resume": "auto"}
    kills = 0
    for attempt in range(12):
        pid = zygote.start(TRAIN, tmp_path / "log", **job)
        if attempt < 6:
            time.sleep(delays.uniform(0.1, 0.6))
            os.kill(pid, signal.SIGKILL)
        code = zygote.wait(pid)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if code == 0 and kills >= 2:
            break
    assert (tmp_path / "run" / "model_final.pth").exists()
    left, right = load(tmp_path / "run"), load(reference / "run")
    for key in ("model", "optimizer", "scheduler", "iteration", "rng", "sampler"):
        assert_equal(left[key], right[key], key)


def test_evaluation_and_its_period_do_not_change_the_weights(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path
) -> None:
    job = {"data": str(tiny_data), "output_dir": str(tmp_path), "eval_period": 0}
    assert zygote.run(TRAIN, tmp_path / "log", **job) == 0
    left, right = load(tmp_path), load(reference / "run")
    for key in ("model", "optimizer", "rng"):
        assert_equal(left[key], right[key], key)


def test_drawn_seed_is_kept(zygote: Zygote, tiny_data: Path, tmp_path: Path) -> None:
    """Without a seed two runs differ, but a run and its continuation have one seed."""
    seeds = []
    for name, more in (("a", True), ("b", False)):
        job = {"data": str(tiny_data), "output_dir": str(tmp_path / name), "seed": None}
        assert zygote.run(TRAIN, tmp_path / "log", **job, max_iter=3, eval_period=0) == 0
        first = load(tmp_path / name)
        seeds.append(first["vitdet_d2"]["seed"])
        if more:
            assert zygote.run(TRAIN, tmp_path / "log", **job, max_iter=6, resume="required") == 0
            second = load(tmp_path / name)
            assert second["vitdet_d2"]["seed"] == seeds[0]
            assert second["sampler"] == {"seed": first["sampler"]["seed"], "samples": 12}
            assert second["iteration"] == 5
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"total_batch_size": 4, "max_iter": 14}, 2, "batch size"),
        ({"max_iter": 11}, 2, "has 12 iterations behind it, train.max_iter is 11"),
        ({"ballast": 8}, 3, "does not fit this recipe"),
    ],
)
def test_resume_with_another_recipe_is_refused(
    zygote: Zygote,
    tiny_data: Path,
    reference: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    code: int,
    message: str,
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    # 3 iterations of 2: six samples, no multiple of 4.
    job = {"data": str(tiny_data), "output_dir": str(out)}
    source = reference / "run"
    if "total_batch_size" in changes:
        assert zygote.run(TRAIN, tmp_path / "log0", **job, max_iter=3) == 0
    else:
        for name in ("model_0000011.pth", "model_0000011.json"):
            (out / name).write_bytes((source / name).read_bytes())
    before = {p.name: p.read_bytes() for p in out.glob("model_*")}
    assert zygote.run(TRAIN, tmp_path / "log", **{**job, **changes}, resume="required") == code
    text = (tmp_path / "log").read_text()
    assert message in text
    assert "Traceback" not in text
    assert {p.name: p.read_bytes() for p in out.glob("model_*")} == before


def test_nothing_to_resume_says_where_it_looked(
    zygote: Zygote, tiny_data: Path, tmp_path: Path
) -> None:
    job = {"data": str(tiny_data), "output_dir": str(tmp_path / "empty")}
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="required") == 2
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith(f"error: --resume: no checkpoint in {tmp_path}/empty")
    assert "--resume=auto" in last


def test_checkpoint_has_only_plain_types_and_the_promised_keys(reference: Path) -> None:
    state = load(reference / "run")
    assert {"model", "optimizer", "scheduler", "iteration"} <= state.keys()
    extra = state["vitdet_d2"]
    assert extra["schema"] == 1
    assert extra["thing_classes"] == ["round", "square"]
    assert extra["dataset_ids"] == [1, 2]
    assert json.loads(extra["recipe"])["train"]["max_iter"] == 12

# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes on the CPU: gradients, common stops, exact resume, one evaluation."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.test_resume import assert_same_run, load, metrics
from tests.engine.zygote import Zygote, wait_for

TRAIN = "tests.engine.tiny_run:train"
GRADIENTS = "tests.engine.tiny_run:gradients"


def start_both(zygote: Zygote, call: str, run: Path, **job: Any) -> list[int]:
    (run / ".meet").unlink(missing_ok=True)
    return [zygote.start(call, run.parent / f"log{r}", **job, rank=r, world_size=2) for r in (0, 1)]


def run_both(zygote: Zygote, call: str, run: Path, **job: Any) -> list[int | None]:
    return [zygote.wait(pid) for pid in start_both(zygote, call, run, **job)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_are_the_mean_over_processes_and_their_batches(
    zygote: Zygote, tmp_path: Path, accumulate: int
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    job = {"folder": str(out), "accumulate": accumulate}
    assert run_both(zygote, GRADIENTS, out, **job) == [0, 0]
    batches = range(2 * accumulate)
    for batch in batches:
        code = zygote.run(GRADIENTS, tmp_path / "log", folder=str(out), batch=batch)
        assert code == 0
    single = [torch.load(out / f"single_{batch}.pth") for batch in batches]
    for rank in (0, 1):
        both = torch.load(out / f"rank_{rank}.pth")
        # One bucket of gradients, exchanged once for all batches.
        assert (out / f"exchanges_rank_{rank}").read_text() == "1"
        assert both.keys() == single[0].keys()
        for name, gradient in both.items():
            mean = sum(one[name] for one in single) / len(single)
            assert (gradient - mean).abs().max() <= 1e-5 * mean.abs().max(), name
            # The batches differ, or the mean would prove nothing.
            assert not torch.allclose(single[0][name], mean, rtol=1e-3), name


@pytest.fixture(scope="module")
def reference(zygote: Zygote, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    run.mkdir()
    assert run_both(zygote, TRAIN, run, data=str(tiny_data), output_dir=str(run)) == [0, 0]
    return run


def test_every_rank_has_its_own_random_state(reference: Path) -> None:
    state = load(reference)
    assert state["vitdet_d2"]["world_size"] == 2
    first, second = state["rng"]
    assert not torch.equal(first["torch"], second["torch"])


def test_every_image_is_evaluated_once(reference: Path) -> None:
    """The evaluator counts images: four on one rank, three on the other."""
    found = [line["bbox/AP"] for line in metrics(reference) if "bbox/AP" in line]
    assert found == [7.0, 7.0, 7.0]


def test_killed_and_resumed_equals_uninterrupted(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    job = {"data": str(tiny_data), "output_dir": str(run)}
    pause = {"folder": str(tmp_path), "place": "step", "iteration": 7, "rank": 1}
    pids = start_both(zygote, TRAIN, run, **job, pause=pause)
    wait_for((tmp_path / "waiting").exists)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert [zygote.wait(pid) for pid in pids] == [-signal.SIGKILL] * 2
    assert run_both(zygote, TRAIN, run, **job, resume="required") == [0, 0]
    assert_same_run(run, reference)


@pytest.mark.parametrize("place", ["step", "eval"])
def test_signal_to_one_rank_stops_both(
    zygote: Zygote, tiny_data: Path, reference: Path, tmp_path: Path, place: str
) -> None:
    """Rank 1 alone is told; it has 3 of 7 images in the evaluation, rank 0 has 4."""
    run = tmp_path / "run"
    run.mkdir()
    job = {"data": str(tiny_data), "output_dir": str(run)}
    pause = {"folder": str(tmp_path), "place": place, "iteration": 2, "rank": 1}
    pids = start_both(zygote, TRAIN, run, **job, pause=pause)
    wait_for((tmp_path / "waiting").exists)
    os.kill(pids[1], signal.SIGTERM)
    (tmp_path / "go").touch()
    assert [zygote.wait(pid, 20) for pid in pids] == [143, 143]
    assert run_both(zygote, TRAIN, run, **job, resume="required") == [0, 0]
    saved = 2 if place == "step" else 5
    assert_same_run(run, reference, extra_line=saved)


def test_nan_on_one_rank_stops_both_within_seconds(
    zygote: Zygote, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    job = {"data": str(tiny_data), "output_dir": str(run), "nan_at": [3, 1], "log_period": 20}
    start = time.monotonic()
    assert run_both(zygote, TRAIN, run, **job) == [1, 1]
    assert time.monotonic() - start < 20
    for rank in (0, 1):
        text = (tmp_path / f"log{rank}").read_text()
        last = text.splitlines()[-1]
        assert "not finite at iteration 3 on rank 1 of 2" in last
        assert "loss_place=nan" in last
        assert "model_0000001.pth" in last
        assert ".png" in last
        assert "Traceback" not in text
    names = sorted(p.name for p in run.glob("model_*.pth"))
    assert names == ["model_0000001.pth"]
    assert all(torch.isfinite(t).all() for t in load(run, names[0])["model"].values())


def test_one_process_continues_what_two_began(
    zygote: Zygote, tiny_data: Path, tmp_path: Path
) -> None:
    """Same learning rate and samples; the weights are not promised, and that is said."""
    run = tmp_path / "run"
    run.mkdir()
    job = {"data": str(tiny_data), "output_dir": str(run)}
    assert run_both(zygote, TRAIN, run, **job, max_iter=4) == [0, 0]
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="required") == 0
    assert "written by 2 processes, these are 1" in (tmp_path / "log").read_text()
    state = load(run)
    assert state["sampler"]["samples"] == 24
    assert state["scheduler"]["last_epoch"] == 12

# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and Ctrl-C: saved once, at a safe point, and the run continues exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.engine.test_resume import assert_same_run
from tests.engine.zygote import Zygote, wait_for
from vitdet_d2.engine.checkpoint_store import CheckpointStore
from vitdet_d2.engine.stop_signals import SIGNALS, StopRequest, held_back

TRAIN = "tests.engine.tiny_run:train"


@pytest.fixture(scope="module")
def reference(zygote: Zygote, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    assert zygote.run(TRAIN, folder / "log", data=str(tiny_data), output_dir=str(folder)) == 0
    return folder


@pytest.mark.parametrize(
    ("place", "iteration", "signum", "saved"),
    [
        # In the forward pass of an iteration that no period ends with.
        ("step", 6, signal.SIGTERM, 6),
        ("step", 6, signal.SIGINT, 6),
        # In the evaluation after iteration 4: its checkpoint is there already.
        ("eval", 3, signal.SIGTERM, 4),
        # While iteration 5 is saved: that save is completed, and the next step too.
        ("save", 5, signal.SIGTERM, 6),
    ],
)
def test_stops_at_a_safe_point_and_continues_exactly(
    zygote: Zygote,
    tiny_data: Path,
    reference: Path,
    tmp_path: Path,
    place: str,
    iteration: int,
    signum: signal.Signals,
    saved: int,
) -> None:
    run = tmp_path / "run"
    job = {"data": str(tiny_data), "output_dir": str(run)}
    pause = {"folder": str(tmp_path), "place": place, "iteration": iteration}
    pid = zygote.start(TRAIN, tmp_path / "log", **job, pause=pause)
    wait_for((tmp_path / "waiting").exists)
    os.kill(pid, signum)
    (tmp_path / "go").touch()
    assert zygote.wait(pid) == 128 + signum
    newest = CheckpointStore(run).newest_verified()
    # In an evaluation the flag is looked at every eight batches: here, at the start of the next.
    if place != "eval":
        assert newest == run / f"model_{saved:07d}.pth"
        assert not (run / f"model_{saved + 1:07d}.pth").exists()
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith(f"error: stopped by {signum.name} after iteration")
    assert last.endswith("continue with --resume")
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="required") == 0
    assert_same_run(run, reference, extra_line=saved)


def test_second_interrupt_ends_at_once_and_leaves_old_files(
    zygote: Zygote, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pause = {"folder": str(tmp_path), "place": "save", "iteration": 3}
    pid = zygote.start(
        TRAIN, tmp_path / "log", data=str(tiny_data), output_dir=str(run), pause=pause
    )
    wait_for((tmp_path / "waiting").exists)
    old = {p.name: p.read_bytes() for p in run.glob("model_*1.*")}
    assert len(old) == 2
    os.kill(pid, signal.SIGINT)
    wait_for(lambda: "SIGINT: saving" in (tmp_path / "log").read_text())
    os.kill(pid, signal.SIGINT)
    assert zygote.wait(pid, 10) == 130
    assert {p.name: p.read_bytes() for p in run.glob("model_*1.*")} == old
    assert CheckpointStore(run).newest_verified() == run / "model_0000001.pth"


def test_handlers_are_chained_and_restored() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, _: seen.append(signum))
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        own = signal.getsignal(signal.SIGTERM)
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signum == signal.SIGTERM
            assert seen == [signal.SIGTERM]
            assert signal.getsignal(signal.SIGINT) is not interrupt
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


def test_children_started_inside_never_see_a_stop_signal() -> None:
    with StopRequest() as stop:
        with held_back():
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
                os._exit(7)
            # To this thread: any other one would take it at once.
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            assert stop.signum == 0
        # What came meanwhile arrives after the block.
        assert stop.signum == signal.SIGTERM
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []).isdisjoint(SIGNALS)


def test_a_process_with_workers_that_never_see_a_signal_ends() -> None:
    # As a run does after an error, whose traceback keeps the loader: the interpreter's end sends
    # SIGTERM to workers, and waits for them.
    program = """
import torch
from torch.utils.data import DataLoader
from vitdet_d2.engine.stop_signals import held_back

with held_back():
    batches = iter(DataLoader(range(1000), num_workers=1))
next(batches)
raise ValueError("the model fails")
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "the model fails" in ended.stderr

# SPDX-License-Identifier: Apache-2.0
"""Cells as processes, with programs of a line in place of a training."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tuning.test_results import finished_run
from vitdet_d2.engine.run_folder import claim
from vitdet_d2.errors import RecipeError
from vitdet_d2.tuning import cell_job, cell_process
from vitdet_d2.tuning.cell_process import CellProcess, CellRunner, Slots, devices_of
from vitdet_d2.tuning.cells import Cell
from vitdet_d2.tuning.recipe_keys import RecipeKeys
from vitdet_d2.tuning.work import Outcome

CELL = Cell(lr=1e-4, weight_decay=0.1, drop_path=0.2)
CPU = Slots(devices=(), count=1)


def runner(output: Path, slots: Slots = CPU) -> CellRunner:
    return CellRunner(
        recipe="quickstart",
        overrides=("train.seed=0",),
        length=("train.max_iter=20",),
        keys=RecipeKeys(drop_path="model.backbone.net.drop_path_rate"),
        output=output,
        metric="bbox/AP",
        objective="final",
        fingerprint="f" * 64,
        slots=slots,
    )


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let cells run a program of Python instead; its arguments are in `sys.argv`."""
    start = subprocess.Popen

    def use(text: str) -> None:
        def replaced(command: list[str], **options: object) -> object:
            if command[1:3] != ["-m", "vitdet_d2.tuning.cell_job"]:
                return start(command, **options)  # type: ignore[call-overload]
            return start([sys.executable, "-c", text, *command[3:]], **options)  # type: ignore[call-overload]

        monkeypatch.setattr(cell_process.subprocess, "Popen", replaced)

    return use


def ended(process: CellProcess) -> Outcome:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        outcome = process.poll()
        if outcome is not None:
            return outcome
        time.sleep(0.01)
    raise AssertionError("the cell does not end")


def test_command_of_a_cell(tmp_path: Path) -> None:
    assert runner(tmp_path).command(CELL) == (
        "vitdet train --config-file quickstart --num-gpus 0 --resume=auto "
        "train.checkpointer.max_to_keep=2 train.seed=0 train.max_iter=20 optimizer.lr=0.0001 "
        "optimizer.weight_decay=0.1 model.backbone.net.drop_path_rate=0.2 "
        f"train.output_dir={tmp_path}/cells/lr0.0001_wd0.1_dp0.2"
    )


def test_trainings_have_the_gpus_of_a_slot(tmp_path: Path) -> None:
    pairs = Slots(devices=(("0", "1"), ("2", "3")), count=2)
    of = dataclasses.replace(runner(tmp_path), slots=pairs)
    assert of.training == ["train", "--config-file", "quickstart", "--num-gpus", "2"]


def test_gpus_go_to_slots() -> None:
    names = devices_of(4, None)
    slots = Slots(devices=(tuple(names[:2]), tuple(names[2:])), count=2)
    assert slots.environment(1, {"HOME": "h"}) == {"HOME": "h", "CUDA_VISIBLE_DEVICES": "2,3"}
    assert devices_of(2, "GPU-a, GPU-b") == ["GPU-a", "GPU-b"]
    assert devices_of(1, "3") == ["3"]


def test_processes_on_the_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert Slots(devices=(), count=4).environment(0, {}) == {"OMP_NUM_THREADS": "2"}
    own = {"OMP_NUM_THREADS": "1"}
    assert Slots(devices=(), count=4).environment(0, own) == own
    assert CPU.environment(0, {}) == {}


def test_a_cell_that_has_run_is_not_run_again(
    tmp_path: Path, program: Callable[[str], None]
) -> None:
    program("raise SystemExit('must not be started')")
    of = runner(tmp_path)
    (tmp_path / "cells").mkdir()
    finished_run(of.folder(CELL), [{"iteration": 20, "bbox/AP": 12.5}])
    assert ended(of.start(CELL, 0)) == Outcome(value=12.5)


def test_errors_are_those_of_this_attempt(tmp_path: Path, program: Callable[[str], None]) -> None:
    of = runner(tmp_path)
    program("import sys; print('error: loss is NaN', file=sys.stderr); sys.exit(1)")
    assert ended(of.start(CELL, 0)) == Outcome(error="loss is NaN")
    program("import sys; print('bye'); sys.exit(3)")
    assert ended(of.start(CELL, 0)) == Outcome(error="exit code 3: bye")
    assert "loss is NaN" in of.log(CELL).read_text()
    program("print('done')")
    assert "holds no model_final" in (ended(of.start(CELL, 0)).error or "")


def test_a_stopped_cell_says_so(tmp_path: Path, program: Callable[[str], None]) -> None:
    program("import time; print('ready', flush=True); time.sleep(60)")
    of = runner(tmp_path)
    process = of.start(CELL, 0)
    assert process.poll() is None
    while not of.log(CELL).exists() or "ready" not in of.log(CELL).read_text():
        time.sleep(0.01)
    process.stop()
    assert ended(process).stopped


def test_a_folder_in_use_is_waited_for(
    tmp_path: Path, program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("import sys; sys.exit('error: started')")
    of = runner(tmp_path)
    hold = f"""
import sys
from vitdet_d2.engine.run_folder import claim
with claim({str(of.folder(CELL))!r}):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        process = of.start(CELL, 0)
        assert process.poll() is None
        assert not of.log(CELL).exists()
        monkeypatch.setattr(cell_process, "SECONDS_FOR_FOLDER", 0.0)
        assert "in use by another process" in (ended(process).error or "")
        monkeypatch.undo()
    with claim(of.folder(CELL)):
        pass


def test_runs_of_another_study_are_refused(tmp_path: Path, program: Callable[[str], None]) -> None:
    of = runner(tmp_path)
    program("import pathlib, sys; pathlib.Path(sys.argv[-1].partition('=')[2], 'metrics.json')"
            ".touch(); sys.exit(1)")  # fmt: skip
    ended(of.start(CELL, 0))
    of.require_own_folders()
    (of.folder(CELL) / "cell.json").write_text('{"fingerprint": "another"}')
    with pytest.raises(RecipeError, match=r"lr0\.0001_wd0\.1_dp0\.2 holds a run of another study"):
        of.require_own_folders()
    (of.folder(CELL) / "cell.json").unlink()
    with pytest.raises(RecipeError, match="--output"):
        of.require_own_folders()


STUDY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
print(child.pid, flush=True)
time.sleep(60)
"""
JOB = """
import signal, sys, threading, time
from vitdet_d2.tuning import cell_job

def training(argv):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(open(sys.argv[1], "w").write("saved")))
    open(sys.argv[1] + ".ready", "w").close()
    time.sleep(60)

cell_job.main = training
sys.argv.append({marker!r})
cell_job.run([])
"""


def test_a_cell_saves_and_ends_when_its_study_is_killed(tmp_path: Path) -> None:
    marker = tmp_path / "state"
    job = JOB.format(marker=str(marker))
    with subprocess.Popen(
        [sys.executable, "-c", STUDY, job], stdout=subprocess.PIPE, text=True
    ) as study:
        assert study.stdout is not None
        study.stdout.readline()
        _wait_for(tmp_path / "state.ready")
        study.send_signal(signal.SIGKILL)
    _wait_for(marker)
    assert cell_job.SECONDS_TO_SAVE > 60


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.02)

# SPDX-License-Identifier: Apache-2.0
"""A run folder belongs to one run and one process at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from vitdet_d2.engine.run_folder import LOCK_NAME, claim
from vitdet_d2.errors import RecipeError, UserError


@pytest.fixture
def used(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "inference").mkdir(parents=True)
    for name in ("model_0000009.pth", "model_0000009.json", "last_checkpoint", "config.json",
                 "metrics.json", "log.txt", "log.txt.rank1", "mine.txt"):  # fmt: skip
        (folder / name).write_text("x")
    return folder


def test_new_folder_is_made_locked_and_released(tmp_path: Path) -> None:
    with claim(tmp_path / "a" / "b") as folder:
        assert folder == tmp_path / "a" / "b"
        assert f'"pid": {os.getpid()}' in (folder / LOCK_NAME).read_text()
    assert list(folder.iterdir()) == []


def test_used_folder_is_refused_and_left_alone(used: Path) -> None:
    before = sorted(path.name for path in used.iterdir())
    with pytest.raises(RecipeError, match=r"already holds a run \(model_0000009.pth\); continue it "
                       r"with --resume, replace it with --overwrite"):  # fmt: skip
        claim(used).__enter__()
    assert sorted(path.name for path in used.iterdir()) == before


@pytest.mark.parametrize("name", ["config.json", "config.yaml", "metrics.json", "last_checkpoint"])
def test_any_trace_of_a_run_counts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(RecipeError, match=f"already holds a run .{name}"):
        claim(tmp_path).__enter__()


def test_other_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with claim(tmp_path):
        pass


def test_resume_needs_a_checkpoint_only_where_it_is_required(used: Path, tmp_path: Path) -> None:
    for resume in ("required", "auto"):
        with claim(used, resume=resume):  # type: ignore[arg-type]
            assert (used / "model_0000009.pth").exists()
    empty = tmp_path / "empty"
    with claim(empty, resume="auto"):
        pass
    with pytest.raises(RecipeError, match=r"nothing to resume, .*empty holds no checkpoint"):
        claim(empty, resume="required").__enter__()


def test_overwrite_removes_the_run_and_nothing_else(used: Path) -> None:
    with claim(used, overwrite=True):
        left = sorted(path.name for path in used.iterdir())
    assert left == [LOCK_NAME, "mine.txt"]


def test_auto_increment_takes_the_next_free_number(used: Path) -> None:
    with claim(used, auto_increment=True) as second:
        assert second.name == "run_2"
        with claim(used, auto_increment=True) as third:
            assert third.name == "run_3"
    with claim(used.parent / "other", auto_increment=True) as first:
        assert first.name == "other"


def test_same_process_cannot_claim_twice(tmp_path: Path) -> None:
    with claim(tmp_path), pytest.raises(UserError, match="in use by another run of this process"):
        claim(tmp_path).__enter__()
    with claim(tmp_path):
        pass


def _hold(folder: str, ready: Any) -> None:
    with claim(folder):
        ready.send(True)
        signal.pause()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_hold, args=(str(tmp_path), sender), daemon=True)
    process.start()
    assert receiver.poll(30)
    with pytest.raises(UserError, match=f'in use by another run .*"pid": {process.pid}'):
        claim(tmp_path).__enter__()
    process.kill()
    process.join(30)
    assert (tmp_path / LOCK_NAME).exists()
    with claim(tmp_path):
        pass


def test_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/sub cannot be written to: .*train.output_dir="):
        claim(tmp_path / "file" / "sub").__enter__()

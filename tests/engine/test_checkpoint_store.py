# SPDX-License-Identifier: Apache-2.0
"""Checkpoints under kills, full disks and damage; the invariant: older files are never touched."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.engine.zygote import Zygote, wait_for
from vitdet_d2.engine.checkpoint_store import CheckpointStore, CheckpointWriteError
from vitdet_d2.errors import WeightsError


def state(value: float = 1.0, size: int = 1000) -> dict:
    return {"model": {"w": torch.full((size,), value)}, "iteration": 1}


def filled(folder: Path, count: int = 3) -> CheckpointStore:
    store = CheckpointStore(folder, retry_seconds=())
    for i in range(count):
        store.save(state(float(i)), iteration=i, meta={"world_size": 1})
    return store


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_save_writes_checkpoint_manifest_and_pointer(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path).save(state(), iteration=41, meta={"world_size": 2})
    assert path.name == "model_0000041.pth"
    manifest = json.loads((tmp_path / "model_0000041.json").read_text())
    content = path.read_bytes()
    assert manifest == {
        "schema": 1,
        "file": "model_0000041.pth",
        "iteration": 41,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "world_size": 2,
    }
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000041.pth"
    assert len(list(tmp_path.iterdir())) == 3
    torch.testing.assert_close(CheckpointStore(tmp_path).load(path)["model"], state()["model"])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def spoil_manifest(path: Path) -> None:
    path.with_suffix(".json").write_text('{"iteration": 2, "bytes"')


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, "sha256 .* expected"),
        (truncate, "bytes, expected"),
        (Path.unlink, "No such file"),
        (lambda path: path.write_bytes(b""), "has 0 bytes"),
        (spoil_manifest, "unreadable manifest"),
    ],
)
def test_damaged_newest_is_named_and_the_previous_one_taken(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    filled(tmp_path)
    damage(tmp_path / "model_0000002.pth")
    store = CheckpointStore(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = store.newest_verified()
    assert found == tmp_path / "model_0000001.pth"
    assert store.load(found)["model"]["w"][0] == 1
    rejected = [r.getMessage() for r in caplog.records if "rejected" in r.getMessage()]
    assert len(rejected) == 1
    assert "model_0000002" in rejected[0]
    assert re.search(reason, rejected[0])


@pytest.mark.parametrize("pointer", ["", "model_0000099.pth", "\x00\xff"])
def test_pointer_is_not_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pointer: str
) -> None:
    filled(tmp_path)
    (tmp_path / "last_checkpoint").write_text(pointer)
    assert CheckpointStore(tmp_path).newest_verified() == tmp_path / "model_0000002.pth"
    assert sum("last_checkpoint" in r.getMessage() for r in caplog.records) == 1


def test_checkpoint_without_manifest_is_not_taken(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "model_0000002.json").unlink()
    assert CheckpointStore(tmp_path).newest_verified() == tmp_path / "model_0000001.pth"


def test_nothing_to_resume(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.newest_verified() is None
    assert store.describe_contents() == f"no checkpoint in {tmp_path}"
    (tmp_path / "model_0000001.pth").write_bytes(b"x")
    assert "which holds model_0000001.pth" in store.describe_contents()


def test_unreadable_checkpoint_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model_0000001.pth"
    path.write_bytes(b"<html>403</html>")
    with pytest.raises(WeightsError, match=r"model_0000001\.pth: cannot be read"):
        CheckpointStore(tmp_path).load(path)


def test_full_disk_leaves_old_files_and_says_what_is_missing(tmp_path: Path) -> None:
    """A file size limit stands for the disk; the write fails in the middle of the file."""
    filled(tmp_path, 2)
    before, pauses = digests(tmp_path), []
    store = CheckpointStore(tmp_path, retry_seconds=(1, 2, 3), sleep=pauses.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(
            CheckpointWriteError, match=r"no space.* bytes needed, \d+ free"
        ) as info:
            store.save(state(size=1 << 20), iteration=2, meta={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{tmp_path}/model_0000002.pth" in str(info.value)
    assert str(int(1.2 * 4 * (1 << 20))) in str(info.value)
    assert "\n" not in str(info.value)
    assert pauses == [1, 2, 3]
    assert digests(tmp_path) == before


def test_too_little_free_space_is_seen_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 2)
    before = digests(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(torch, "save", lambda *_: pytest.fail("wrote without space"))
    with pytest.raises(CheckpointWriteError, match=r"no space.* 4800 bytes needed, 1000 free"):
        CheckpointStore(tmp_path, retry_seconds=()).save(state(), iteration=2, meta={})
    assert digests(tmp_path) == before


def test_transient_failure_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, failures = os.fsync, [errno.EIO, errno.EIO]

    def failing(descriptor: int) -> None:
        if failures:
            raise OSError(failures.pop(), "flaky")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    pauses: list[float] = []
    store = CheckpointStore(tmp_path, sleep=pauses.append)
    path = store.save(state(), iteration=0, meta={})
    assert pauses == [1, 5]
    assert CheckpointStore(tmp_path).newest_verified() == path


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_model_is_refused(tmp_path: Path, value: float) -> None:
    store = filled(tmp_path, 1)
    before = digests(tmp_path)
    bad = {"model": {"good": torch.ones(2), "bad": torch.tensor([1.0, value]), "n": torch.ones(1)}}
    with pytest.raises(CheckpointWriteError, match=r"NaN or Inf in 1 tensors \(bad\)"):
        store.save(bad, iteration=1, meta={})
    assert digests(tmp_path) == before


def numbers(folder: Path) -> list[int]:
    return sorted(int(p.stem[6:]) for p in folder.glob("model_0*.pth"))


@pytest.mark.parametrize(("max_to_keep", "left"), [(1, [4, 5]), (3, [3, 4, 5])])
def test_old_checkpoints_go_also_those_of_an_earlier_run(
    tmp_path: Path, max_to_keep: int, left: list[int]
) -> None:
    filled(tmp_path, 5)
    store = CheckpointStore(tmp_path, max_to_keep=max_to_keep)
    store.save(state(), iteration=5, meta={})
    assert numbers(tmp_path) == left
    assert sorted(int(p.stem[6:]) for p in tmp_path.glob("model_0*.json")) == left


def test_nothing_is_deleted_while_fewer_than_two_are_verified(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    flip(tmp_path / "model_0000002.pth")
    CheckpointStore(tmp_path, max_to_keep=2).save(state(), iteration=3, meta={})
    assert numbers(tmp_path) == [0, 1, 2, 3]


def test_failing_delete_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, 3)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    CheckpointStore(tmp_path, max_to_keep=2).save(state(), iteration=3, meta={})
    assert "Cannot delete" in caplog.text
    assert numbers(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("links", [True, False])
def test_final_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    store = filled(tmp_path, 2)
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    final = store.save_final(tmp_path / "model_0000001.pth")
    assert final == tmp_path / "model_final.pth"
    assert store.save_final(tmp_path / "model_0000001.pth") == final  # a second time
    assert not list(tmp_path.glob("*.tmp-*"))
    assert final.read_bytes() == (tmp_path / "model_0000001.pth").read_bytes()
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    fresh = CheckpointStore(tmp_path)
    assert fresh.newest_verified() == tmp_path / "model_0000001.pth"
    flip(tmp_path / "model_0000001.pth")
    if not links:
        assert CheckpointStore(tmp_path).newest_verified() == final


def test_kill_while_the_file_grows_leaves_the_previous_one(tmp_path: Path, zygote: Zygote) -> None:
    """SIGKILL as soon as a temporary file has content; repeated until one is left behind."""
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        job = zygote.start(
            "tests.engine.tiny_run:save_forever",
            tmp_path / "log",
            folder=str(folder),
            megabytes=8,
        )
        wait_for(lambda folder=folder: len(numbers(folder)) >= 2)
        wait_for(lambda folder=folder: list(folder.glob("model_*.pth.tmp-*")))
        os.kill(job, signal.SIGKILL)
        assert zygote.wait(job) == -signal.SIGKILL
        if list(folder.glob("model_*.pth.tmp-*")):
            break
    else:
        pytest.fail("never killed inside a save")
    store = CheckpointStore(folder)
    newest = store.newest_verified()
    assert newest is not None
    iteration = int(newest.stem[6:])
    assert iteration >= max(numbers(folder)) - 1
    assert (store.load(newest)["model"]["w"] == iteration).all()
    store.remove_debris()
    assert not list(folder.glob("*.tmp-*"))
    assert store.newest_verified() == newest

# SPDX-License-Identifier: Apache-2.0
"""The folder of a run belongs to one run, and to one process at a time.

Vocabulary:
    claim: the check before any work, and the lock that lasts while the run does. Rank 0 claims.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vitdet_d2.engine.arguments import Resume
from vitdet_d2.engine.manifest import SHARDS_SUFFIX
from vitdet_d2.errors import RecipeError, UserError

LOCK_NAME = ".lock"

# What a run leaves. Only these are ever removed.
_CHECKPOINTS = ("model_*.pth", "model_*.json", "last_checkpoint")
_MARKS = (*_CHECKPOINTS, "config.json", "config.yaml", "metrics.json")
_FILES = (*_MARKS, "log.txt*", "load_report.json", "events.out.tfevents.*", "*.tmp-*")
_FOLDERS = ("inference", "pictures")

# POSIX locks do not exclude the process that holds them.
_held: set[Path] = set()


def holds_run(folder: Path) -> str | None:
    """Return the name of a file that tells of a run, None where there is none.

    Args:
        folder: may be missing.
    """
    for pattern in _MARKS:
        for path in sorted(folder.glob(pattern)):
            return path.name
    return None


@contextlib.contextmanager
def claim(
    output_dir: str | Path,
    resume: Resume = "never",
    overwrite: bool = False,
    auto_increment: bool = False,
) -> Iterator[Path]:
    """Take a folder for a run, for the duration of the block.

    Args:
        output_dir: made if it is not there.
        resume: whether the run in it is continued.
        overwrite: remove the files of the run in it.
        auto_increment: where it holds a run, take ``output_dir_2``, ``output_dir_3``, ...

    Yields:
        The folder.

    Raises:
        RecipeError: it holds a run and none of the three says what to do, or there is nothing to
            resume.
        UserError: another process uses it, or it cannot be written to.
    """
    folder = Path(output_dir)
    if auto_increment:
        folder = _first_free(folder)
    _check(folder, resume, overwrite)  # before anything is made
    make_writable(folder)
    with _lock(folder):
        _check(folder, resume, overwrite)
        if overwrite:
            remove_run(folder)
        yield folder


def _first_free(folder: Path) -> Path:
    numbered = (folder.with_name(f"{folder.name}_{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder], numbered) if not _is_taken(path))


def _is_taken(folder: Path) -> bool:
    return holds_run(folder) is not None or (folder / LOCK_NAME).exists()


def _check(folder: Path, resume: Resume, overwrite: bool) -> None:
    mark = holds_run(folder)
    if resume == "never":
        if mark is not None and not overwrite:
            raise RecipeError(
                f"output folder {folder} already holds a run ({mark}); continue it with --resume, "
                "replace it with --overwrite, or name another one with train.output_dir=FOLDER"
            )
        return
    has_checkpoint = any(True for _ in folder.glob("model_*.pth"))
    if resume == "required" and not has_checkpoint:
        raise RecipeError(
            f"--resume: nothing to resume, {folder} holds no checkpoint (model_*.pth); check "
            "train.output_dir, or use --resume=auto, which starts a run where there is none"
        )


def make_writable(folder: Path, option: str = "train.output_dir=FOLDER") -> None:
    """Make the folder, and write a byte into it.

    Args:
        folder: of the run.
        option: that names another one, for the message.

    Raises:
        UserError: the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise UserError(
            f"output folder {folder} cannot be written to: {error.strerror or error}; name another "
            f"one with {option}"
        ) from error


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    path = folder.resolve() / LOCK_NAME
    if path in _held:
        raise UserError(f"output folder {folder} is in use by another run of this process")
    descriptor = _open_locked(path, folder)
    _held.add(path)
    try:
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(owner).encode())
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _open_locked(path: Path, folder: Path) -> int:
    """Return a descriptor of the lock file, locked.

    The system drops such a lock when the process ends, however it ends, and data workers do not
    inherit it, so that no lock is ever stale.

    Raises:
        UserError: another process holds the lock.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(descriptor, 1000, 0).decode(errors="replace")
            os.close(descriptor)
            raise UserError(
                f"output folder {folder} is in use by another run ({owner or 'just started'}); "
                "wait for it, or name another one with train.output_dir=FOLDER"
            ) from error
        # Its former owner may have removed the file between the two calls.
        if path.exists() and os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)


def remove_run(folder: Path) -> None:
    """Remove what a run leaves in its folder, and nothing else.

    Args:
        folder: of the run.
    """
    for pattern in _FILES:
        for path in folder.glob(pattern):
            if not path.is_dir():
                path.unlink()
    for path in folder.glob(f"model_*{SHARDS_SUFFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)

# SPDX-License-Identifier: Apache-2.0
"""Files on their way: each under a name of its own, with what is needed to go on with it.

The name holds host and process, so that a later download can tell which files were left by a
process that has ended, and go on with one of them; renaming it decides who does.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from pathlib import Path

from vitdet_d2.errors import DownloadError

_ABANDONED_SECONDS = 3600  # of another host's file, whose process cannot be asked for
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Files that this process is writing now; others of its own were left by an interrupt.
_active: set[Path] = set()


class PartialFile:
    """The bytes received so far of a file, in the folder where it will lie; a context.

    Attributes:
        path: of the bytes.
        resumed: some of them are from an earlier request.
        total: bytes of the whole file, once a server has said.
    """

    def __init__(self, target: Path) -> None:
        """Begin a file, or go on with one that an ended process left.

        Args:
            target: what it will be; its folder exists.
        """
        unique = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.path = target.with_name(f"{target.name}.part-{_host()}-{unique}")
        self.resumed = False
        self.total: int | None = None
        self._validator: str | None = None
        self._source: str | None = None
        for leftover in _abandoned(target):
            if self._adopt(leftover):
                break

    def __enter__(self) -> PartialFile:
        _active.add(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        _active.discard(self.path)

    @property
    def size(self) -> int:
        """Bytes received so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def resume_header(self, source: str) -> str | None:
        """Return the validator with which this source can be asked for the rest, if it can.

        Args:
            source: the address of the next request.
        """
        return self._validator if self.size and self._source == _digest(source) else None

    def begin(self, source: str, validator: str | None, total: int | None) -> None:
        """Throw away what is there, and note what is about to be received.

        Args:
            source: its address.
            validator: a strong ETag, or a date of change; None: it cannot be continued.
            total: bytes, if known.
        """
        self.discard()
        self.resumed, self.total = False, total
        self._source, self._validator = _digest(source), validator
        self.path.touch()
        if validator is not None:
            note = {"source": self._source, "validator": validator, "total": total}
            _note(self.path).write_text(json.dumps(note), encoding="utf-8")

    def append(self, data: bytes) -> None:
        """Write what was received.

        Raises:
            DownloadError: the disk is full, or refuses.
        """
        try:
            with self.path.open("ab") as file:
                file.write(data)
        except OSError as error:
            if error.errno in _FULL:
                received = self.size
                self.discard()
                raise self._disk_full(received) from None
            raise DownloadError(f"{self.path} cannot be written ({error.strerror})") from None

    def require_space(self) -> None:
        """Refuse to start what cannot be finished.

        Raises:
            DownloadError: less is free than is missing.
        """
        if self.total is None:
            return
        if self.total - self.size > shutil.disk_usage(self.path.parent).free:
            received = self.size
            self.discard()
            raise self._disk_full(received)

    def _disk_full(self, received: int) -> DownloadError:
        free = shutil.disk_usage(self.path.parent).free
        needed = "the rest" if self.total is None else f"{self.total} bytes"
        return DownloadError(
            f"{self.path.parent}: the disk is full: {needed} needed, {free} free (after {received} "
            "received bytes were deleted); make room, or set VITDET_D2_CACHE to another disk"
        )

    def finish(self, target: Path) -> None:
        """Give the file its name, durably.

        Args:
            target: the name.
        """
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, target)
        _note(self.path).unlink(missing_ok=True)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Delete what was received."""
        self.path.unlink(missing_ok=True)
        _note(self.path).unlink(missing_ok=True)

    def _adopt(self, leftover: Path) -> bool:
        try:
            note = json.loads(_note(leftover).read_text(encoding="utf-8"))
            os.rename(leftover, self.path)
        except (OSError, ValueError):
            return False  # another process was faster, or it cannot be continued
        _note(leftover).unlink(missing_ok=True)
        _note(self.path).write_text(json.dumps(note), encoding="utf-8")
        self._source, self._validator = note.get("source"), note.get("validator")
        self.total = note.get("total")
        self.resumed = True
        return True


def remove_leftovers(target: Path) -> None:
    """Delete what ended processes left of a file that is complete now.

    Args:
        target: the file.
    """
    for leftover in _abandoned(target):
        leftover.unlink(missing_ok=True)
        _note(leftover).unlink(missing_ok=True)


def _abandoned(target: Path) -> list[Path]:
    """Return the leftovers of ended processes, the largest first."""
    found = []
    marked = re.compile(re.escape(target.name) + r"\.part-(.+)-(\d+)-[0-9a-f]{8}")
    for path in target.parent.glob(f"{_escaped(target.name)}.part-*"):
        match = marked.fullmatch(path.name)
        if match is not None and _has_ended(path, match[1], int(match[2])):
            found.append(path)
    return sorted(found, key=_size, reverse=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _has_ended(path: Path, host: str, pid: int) -> bool:
    if host != _host():
        try:
            return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
        except FileNotFoundError:
            return False
    if pid == os.getpid():
        return path not in _active
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()  # it may hold a secret

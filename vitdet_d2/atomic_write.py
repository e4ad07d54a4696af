# SPDX-License-Identifier: Apache-2.0
"""Files that are either there as a whole or not at all, whatever ends the process.

The dance: a temporary file in the same folder, write, flush, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_MARK = ".tmp-"


class HashingFile:
    """A binary file that counts and hashes what is written to it, in order."""

    def __init__(self, file: IO[bytes]) -> None:
        """Wrap an open file.

        Args:
            file: open for writing, at its start.
        """
        self._file = file
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        # `torch.save` turns what `write` raises into a RuntimeError without the cause.
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`.

        Raises:
            OSError: the system refused; also kept in `error`.
        """
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        num_bytes = memoryview(data).nbytes
        self.num_bytes += num_bytes
        return num_bytes

    def flush(self) -> None:
        """Hand everything written so far to the system.

        Raises:
            OSError: the system refused; also kept in `error`.
        """
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise

    @property
    def sha256(self) -> str:
        """Hash of everything written so far, in hexadecimal."""
        return self._hash.hexdigest()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[HashingFile]:
    """Write a file that appears under its name when the block ends without an error.

    Args:
        path: the final name; its folder exists.

    Raises:
        OSError: the system refused. Nothing is left behind and an older file is untouched.
        RuntimeError: what the block raised, if the system is not behind it.
    """
    temporary = path.with_name(f"{path.name}{_MARK}{os.getpid()}")
    try:
        with open(temporary, "wb") as raw:
            file = HashingFile(raw)
            try:
                yield file
            except RuntimeError as error:
                if file.error is not None:
                    raise file.error from error
                raise
            file.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the folder's entries (new names, renames) durable.

    Raises:
        OSError: the system refused.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leftovers(folder: Path, pattern: str) -> list[Path]:
    """Temporary files that a killed process left of files whose names match the glob pattern."""
    return sorted(folder.glob(f"{pattern}{_MARK}*"))

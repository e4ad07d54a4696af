# SPDX-License-Identifier: Apache-2.0
"""What a downloaded file must be: its hashes, and the record of them that lies beside it.

Released files carry six digits of a hash in their name. Detectron2's documentation calls them a
prefix of the md5; that was not verified for these files, so a prefix of the sha256 is accepted
too, and the record says which of the two it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from vitdet_d2.errors import WeightsError

_CHUNK = 1 << 20  # bytes; large enough that Python's share of the time does not count

PrefixOf = Literal["md5", "sha256"]


@dataclass(frozen=True, kw_only=True)
class Digests:
    """Size in bytes and hashes of a file, in hexadecimal."""

    size: int
    md5: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the first good download of a file was; every later use must equal it.

    Attributes:
        address: canonical, without secrets.
        bytes: size.
        sha256: of the whole file, in hexadecimal.
        prefix: the digits in the file's name; None where it has none.
        prefix_of: the hash that begins with them.
        recorded: time in UTC, ISO 8601.
    """

    address: str
    bytes: int
    sha256: str
    prefix: str | None
    prefix_of: PrefixOf | None
    recorded: str


def digest_file(path: Path) -> Digests:
    """Hash a file in one pass."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
            size += len(chunk)
    return Digests(size=size, md5=md5.hexdigest(), sha256=sha256.hexdigest())


def check(
    digests: Digests, shown: str, prefix: str | None, record: Record | None
) -> PrefixOf | None:
    """Compare a file with its name and its record.

    Args:
        digests: of the file.
        shown: the address, for messages.
        prefix: the digits in its name.
        record: of an earlier download.

    Returns:
        The hash that begins with the prefix.

    Raises:
        WeightsError: it is another file.
    """
    prefix_of: PrefixOf | None = None
    if prefix is not None:
        if digests.md5.startswith(prefix):
            prefix_of = "md5"
        elif digests.sha256.startswith(prefix):
            prefix_of = "sha256"
        else:
            raise WeightsError(
                f"{shown}: wrong hash: its name promises {prefix}..., the {digests.size} bytes "
                f"have md5 {digests.md5} and sha256 {digests.sha256}; a proxy or mirror gave "
                "another file, or it was damaged on the way; try again, or get it elsewhere"
            )
    if record is not None and record.sha256 != digests.sha256:
        raise WeightsError(
            f"{shown}: wrong hash: recorded at the first download were {record.bytes} bytes with "
            f"sha256 {record.sha256}, now {digests.size} bytes with {digests.sha256}"
        )
    return prefix_of


def record_path(path: Path) -> Path:
    """Return where the record of a cached file lies."""
    return path.with_name(f"{path.name}.json")


def read_record(path: Path) -> Record | None:
    """Return the record of a cached file; None where there is none.

    Args:
        path: of the cached file.

    Raises:
        WeightsError: it is damaged.
    """
    file = record_path(path)
    try:
        return Record(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{file}: damaged ({error}); delete it and {path.name}") from None


def write_record(
    path: Path, shown: str, digests: Digests, prefix: str | None, prefix_of: PrefixOf | None
) -> Record:
    """Keep what a file is, as a whole or not at all.

    Args:
        path: of the cached file.
        shown: its address without secrets.
        digests: of the file.
        prefix: the digits in its name.
        prefix_of: the hash that begins with them.
    """
    record = Record(
        address=shown,
        bytes=digests.size,
        sha256=digests.sha256,
        prefix=prefix,
        prefix_of=prefix_of,
        recorded=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    file = record_path(path)
    temporary = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(record), indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)
    return record

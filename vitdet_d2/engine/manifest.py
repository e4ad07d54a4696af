# SPDX-License-Identifier: Apache-2.0
"""The manifest beside a file of weights: what the file must be.

Vocabulary:
    manifest: ``model_XXXXXXX.json`` beside ``model_XXXXXXX.pth``: bytes, sha256, iteration, more.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FINAL = "model_final.pth"
# Other files of weights stand beside the checkpoints, and cannot be resumed from.
_CHECKPOINT = re.compile(r"model_(\d{7,}|final)\.json")
_READ_BYTES = 1 << 22
# Of the folder beside a checkpoint whose tensors every process wrote for itself.
SHARDS_SUFFIX = ".dcp"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One file of weights as its manifest describes it."""

    path: Path
    iteration: int
    num_bytes: int
    sha256: str
    manifest: Mapping[str, Any]


def is_checkpoint(manifest: Path) -> bool:
    """Whether this is the manifest of a checkpoint, by its name.

    Args:
        manifest: a path.
    """
    return _CHECKPOINT.fullmatch(manifest.name) is not None


def read_manifest(manifest: Path) -> Record | str:
    """Read one.

    Args:
        manifest: its path.

    Returns:
        The record, or why there is none.
    """
    try:
        content = json.loads(manifest.read_bytes())
        return Record(
            path=manifest.with_suffix(".pth"),
            iteration=int(content["iteration"]),
            num_bytes=int(content["bytes"]),
            sha256=str(content["sha256"]),
            manifest=content,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"unreadable manifest ({type(error).__name__}: {error})"


def reject(record: Record) -> str | None:
    """Compare a file with its manifest.

    Args:
        record: of the file.

    Returns:
        Why the file is not what its manifest says; None if it is.
    """
    reason = _reject_file(record.path, record.num_bytes, record.sha256)
    folder = record.path.with_suffix(SHARDS_SUFFIX)
    for name, (num_bytes, sha256) in record.manifest.get("shards", {}).items():
        reason = reason or _reject_file(folder / name, num_bytes, sha256)
    return reason


def _reject_file(path: Path, expected_bytes: int, expected: str) -> str | None:
    try:
        num_bytes = path.stat().st_size
        if num_bytes != expected_bytes:
            return f"{path.name} has {num_bytes} bytes, expected {expected_bytes}"
        actual = sha256_of(path)
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    if actual != expected:
        return f"{path.name} has sha256 {actual[:12]}, expected {expected[:12]}"
    return None


def sha256_of(path: Path) -> str:
    """Hash a file.

    Args:
        path: of the file.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()

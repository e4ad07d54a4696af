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
    try:
        num_bytes = record.path.stat().st_size
        if num_bytes != record.num_bytes:
            return f"{record.path.name} has {num_bytes} bytes, expected {record.num_bytes}"
        actual = _sha256(record.path)
    except OSError as error:
        return f"{record.path.name}: {error.strerror}"
    if actual != record.sha256:
        return f"{record.path.name} has sha256 {actual[:12]}, expected {record.sha256[:12]}"
    return None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()

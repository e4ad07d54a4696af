# SPDX-License-Identifier: Apache-2.0
"""Reading a weights file of any format by what it holds, not by its name.

Formats: safetensors; torch's zip archive and its format of before 1.6; pickles of numpy arrays
(Detectron2's model zoo). Nothing in a file is run, and every failure is a ``WeightsError`` that
says what the file is instead. torch is imported only where tensors are made.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Literal

from vitdet_d2.checks.safe_pickle import SAFE_NAMES, load_pickle, plain, unsafe_message
from vitdet_d2.errors import WeightsError

Format = Literal["safetensors", "torch_zip", "torch_legacy", "pickle"]

_CURE = "get the file again, and compare its size and checksum with the source's"
_HEAD_BYTES = 512
# First bytes of the pickled "magic number" with which torch < 1.6 begins a file.
_TORCH_LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
_SAFETENSORS_MAX_HEADER = 100_000_000  # the format's own limit, bytes
# Reading with weights_only=True below this version is not safe (CVE-2025-32434, CVE-2026-24747).
_SAFE_TORCH = (2, 10)
_UNSAFE_GLOBAL = re.compile(r"(?:GLOBAL|[Uu]nsupported (?:global|class)[^\w]*)\s*([A-Za-z_][\w.]+)")


def sniff(path: str | os.PathLike[str]) -> Format:
    """Tell the format of a weights file from its first bytes.

    Args:
        path: a local file.

    Returns:
        The format.

    Raises:
        WeightsError: there is no such file, or it is none of weights: empty, a web page, a Git LFS
            pointer, a tar archive, or unknown.
    """
    file = Path(path)
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "does not exist"
        raise WeightsError(f"{path}: {kind}; give the path of a weights file")
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return "torch_zip"
    if _is_safetensors(head, size):
        return "safetensors"
    if head.startswith(b"\x80"):
        return "torch_legacy" if head[2:14] == _TORCH_LEGACY_MAGIC else "pickle"
    raise WeightsError(f"{path}: not a weights file: {_describe(head)}")


def _is_safetensors(head: bytes, size: int) -> bool:
    header = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= header <= min(_SAFETENSORS_MAX_HEADER, size)


def _describe(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty; delete it and get it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return (
            "it looks like a web page, perhaps an error page of the server it was downloaded from; "
            "delete it, open the address in a browser, and get the file itself"
        )
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull` where it was cloned"
    if text.startswith(b"{"):
        return "it looks like JSON; give the weights beside it"
    if head[257:262] == b"ustar":
        return "it is a tar archive; unpack it, and give the file inside"
    return (
        f"it begins with {head[:8]!r}; expected .safetensors, .pth or a .pkl of a model zoo "
        "(is the file damaged, or compressed?)"
    )


def read_weights_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a weights file without running anything in it.

    Args:
        path: a local file in one of the formats above.

    Returns:
        What the file holds: built-in containers, numbers, texts, CPU tensors and numpy arrays.

    Raises:
        WeightsError: the file is missing, damaged, unsafe or no weights file, or holds no
            dictionary.
    """
    kind = sniff(path)
    if kind == "safetensors":
        content: Any = _read_safetensors(path)
    elif kind == "pickle":
        content = load_pickle(path)
    else:
        if kind == "torch_zip":
            check_zip(path)
        content = _read_torch(path)
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path}: expected a dictionary of tensors, got {type(content).__name__}; save the "
            "model's state_dict()"
        )
    return content


def check_zip(path: str | os.PathLike[str]) -> None:
    """Compare every record of a torch archive with its checksum; torch itself does not.

    Args:
        path: a zip archive.

    Raises:
        WeightsError: the archive is cut off, damaged, compressed, or made for TorchScript.
    """
    try:
        damaged = _first_damaged_record(path)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise WeightsError(f"{path}: cut off or damaged ({error}); {_CURE}") from None
    if damaged is not None:
        raise WeightsError(f"{path}: damaged, {damaged} does not match its checksum; {_CURE}")


def _first_damaged_record(path: str | os.PathLike[str]) -> str | None:
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise WeightsError(
                f"{path}: a compressed archive, not a weights file; unpack it, and give the file "
                "inside"
            )
        if any("/code/" in record.filename for record in records):
            raise WeightsError(
                f"{path}: a TorchScript program, which cannot be read safely; give the checkpoint "
                "it was made from"
            )
        return archive.testzip()


def _read_torch(path: str | os.PathLike[str]) -> Any:
    import torch

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _SAFE_TORCH:
        raise WeightsError(
            f"{path}: torch {torch.__version__} cannot read .pth files safely (CVE-2026-24747); "
            "upgrade to torch >= 2.10, or convert the file to .safetensors"
        )
    names: list[Any] = [(value, name) for name, value in SAFE_NAMES.items()]
    try:
        with torch.serialization.safe_globals(names):
            return plain(torch.load(path, map_location="cpu", weights_only=True))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError) as err:
        found = _UNSAFE_GLOBAL.search(str(err))
        if found:
            raise WeightsError(unsafe_message(path, found.group(1))) from None
        reason = _torch_reason(err)
        raise WeightsError(
            f"{path}: cut off, damaged or no weights file ({reason[:200]}); get the file again"
        ) from None


def _torch_reason(error: Exception) -> str:
    """Return what went wrong, without torch's advice to switch the safe reading off."""
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _read_safetensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: cut off or damaged ({error}); {_CURE}") from None

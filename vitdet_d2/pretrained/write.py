# SPDX-License-Identifier: Apache-2.0
"""Weights files: ``.safetensors``, ``.pth``, and ``.pkl`` as Detectron2's model zoo has them.

A file is there as a whole or not at all. Detectron2's loader goes by names where a file says so:
names are whole (``backbone.net.blocks.0...``), and heuristics, which match ends of names, are off.

Source: the format of huggingface/safetensors, README.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from vitdet_d2.atomic_write import HashingFile, atomic_write
from vitdet_d2.checks.safetensors_file import DTYPES, METADATA
from vitdet_d2.errors import RecipeError, UserError, WeightsError
from vitdet_d2.pretrained.described import written_by
from vitdet_d2.pretrained.entry import KEY

ENDINGS = (".safetensors", ".pth", ".pkl")

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# NumPy has no such numbers.
_NOT_IN_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file.

    Attributes:
        num_bytes: its size.
        sha256: its hash, in hexadecimal.
    """

    num_bytes: int
    sha256: str


def write_weights(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    entry: Mapping[str, Any] | None = None,
) -> Written:
    """Write tensors in the format that the name's ending asks for.

    An older file of this name is replaced at the end, and stays as it is if anything fails.

    Args:
        path: ends with ``.safetensors``, ``.pth`` or ``.pkl``.
        tensors: by name; they may share memory. In a ``.pkl`` they are arrays, bfloat16 as
            float32.
        entry: what the tensors do not say, in plain values; `Converted.entry`.

    Raises:
        RecipeError: another ending.
        UserError: the system refused.
        WeightsError: numbers that the format has not.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise RecipeError(f"{path}: expected an ending of {', '.join(ENDINGS)}")
    try:
        with atomic_write(path) as file:
            _write(file, path.suffix, {n: _own(v.detach()) for n, v in tensors.items()}, entry)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}); what was there before is "
            "untouched"
        ) from error
    return Written(num_bytes=file.num_bytes, sha256=file.sha256)


def _write(
    file: HashingFile, ending: str, tensors: dict[str, Tensor], entry: Mapping[str, Any] | None
) -> None:
    if ending == ".safetensors":
        _write_safetensors(file, tensors, entry)
        return
    content: dict[str, Any] = {"model": tensors}
    if entry is not None:
        content[KEY] = dict(entry)
    if ending == ".pth":
        torch.save(content, cast("IO[bytes]", file))
        return
    content["model"] = {name: _as_array(value) for name, value in tensors.items()}
    # Without an author the file is taken for one of Caffe2, and its names are changed.
    content |= {"__author__": written_by(), "matching_heuristics": False}
    pickle.dump(content, cast("IO[bytes]", file), protocol=4)


def _write_safetensors(
    file: HashingFile, tensors: Mapping[str, Tensor], entry: Mapping[str, Any] | None
) -> None:
    """Write one tensor after the other, so that none is held twice.

    Raises:
        WeightsError: numbers that the format has not.
    """
    metadata = {"format": "pt"} | ({} if entry is None else {KEY: json.dumps(entry)})
    header: dict[str, Any] = {METADATA: metadata}
    # Wide numbers first: all lie at multiples of their own width then.
    ordered = sorted(tensors, key=lambda name: -tensors[name].element_size())
    end = 0
    for name in ordered:
        value = tensors[name]
        if value.dtype not in _DTYPE_NAMES:
            raise WeightsError(
                f"{name}: .safetensors has no numbers of type {value.dtype}; write a .pth file"
            )
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {
            "dtype": _DTYPE_NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in ordered:
        file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)


def _as_array(value: Tensor) -> Any:
    return (value.float() if value.dtype in _NOT_IN_NUMPY else value).numpy()


def _own(value: Tensor) -> Tensor:
    """Return a tensor on the CPU that shares its memory with no larger one."""
    value = value.cpu().contiguous()
    alone = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if alone else value.clone()

# SPDX-License-Identifier: Apache-2.0
"""Reading ``.npz`` archives of plain numbers, also of bfloat16 as jax writes it.

Source: the format of ``numpy.lib.format``.
"""

from __future__ import annotations

import math
import os
import zipfile
from typing import Any, BinaryIO

import numpy as np
import torch

from vitdet_d2.checks.zip_records import Record, read_directory
from vitdet_d2.errors import WeightsError

# Weights hardly become smaller when they are compressed; a bomb grows a thousandfold.
_MAX_GROWTH = 20
_FREE_BYTES = 256 * 1024**2
_SUFFIX = ".npy"
# numpy has no such type, and keeps its two bytes as they are.
_BFLOAT16 = np.dtype("V2")


def read_npz(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read an archive.

    Args:
        path: a local file.

    Returns:
        The arrays by name, as tensors; two bytes without a type are bfloat16.

    Raises:
        WeightsError: it is cut off or damaged, is far larger than the file when it is unpacked, or
            holds other things than arrays of numbers.
    """
    with open(path, "rb") as file:
        records = read_directory(path, file)
        _check_members(path, records, os.fstat(file.fileno()).st_size)
        try:
            with zipfile.ZipFile(file) as archive:
                return {
                    name.removesuffix(_SUFFIX): _read_member(archive, record)
                    for name, record in records.items()
                }
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
        # A hostile or damaged archive can fail in any way.
        except Exception as error:
            raise WeightsError(
                f"{path}: cut off or damaged ({str(error)[:200] or type(error).__name__}); get the "
                "file again, and compare its size and checksum with the source's"
            ) from None


def _check_members(path: str | os.PathLike[str], records: dict[str, Record], size: int) -> None:
    other = [name for name in records if not name.endswith(_SUFFIX)]
    if other or not records:
        raise WeightsError(
            f"{path}: an archive of other things than arrays (in it: {', '.join(other[:3])}); give "
            "a file of numpy.savez with the weights"
        )
    total = sum(record.full_size for record in records.values())
    if total > max(_FREE_BYTES, _MAX_GROWTH * size):
        raise WeightsError(
            f"{path}: refused, {size} bytes would become {total}; check where the file is from"
        )


def _read_member(archive: zipfile.ZipFile, record: Record) -> torch.Tensor:
    with archive.open(record.name) as stream:
        shape, is_fortran, dtype = _read_header(stream)
        is_bfloat16 = dtype == _BFLOAT16
        if not is_bfloat16 and (dtype.hasobject or dtype.kind not in "biufc"):
            raise WeightsError(
                f"{record.name} holds {'Python objects' if dtype.hasobject else dtype}, no plain "
                "numbers; save the weights alone"
            )
        size = math.prod(shape) * dtype.itemsize
        if size > record.full_size:
            raise EOFError(f"{record.name} is shorter than its header says")
        memory = np.empty(size, np.uint8)
        _fill(stream, memory.data)
        if stream.read(1):  # to the end, where the checksum is compared
            raise EOFError(f"{record.name} is longer than its header says")
    flat = memory.view(np.uint16 if is_bfloat16 else dtype)
    array: np.ndarray = flat.reshape(shape, order="F" if is_fortran else "C")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(shape))
    return tensor.view(torch.bfloat16) if is_bfloat16 else tensor


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"arrays in version {version} of their format")


def _fill(stream: BinaryIO | Any, memory: memoryview) -> None:
    done = 0
    while done < len(memory):
        part = stream.read(min(1024 * 1024, len(memory) - done))
        if not part:
            raise EOFError("an array is cut off")
        memory[done : done + len(part)] = part
        done += len(part)

# SPDX-License-Identifier: Apache-2.0
"""Reading ``.safetensors`` into memory of its own, every claim of the header checked.

The package of that name maps the file instead, and a mapped file must neither change nor shrink
as long as its tensors are in use.

Source: the format of huggingface/safetensors, README.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, BinaryIO

import torch

from vitdet_d2.checks.file_spans import Span, read_spans
from vitdet_d2.errors import WeightsError

METADATA = "__metadata__"
# The format's own limit.
MAX_HEADER_BYTES = 100_000_000
# A detector of ViT-H has some 700; tensors in torch have at most 64 axes.
_MAX_TENSORS = 200_000
_MAX_AXES = 64

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file.

    Args:
        path: a local file.

    Returns:
        The tensors by name; what its writer noted, as texts by name under ``__metadata__``, where
        there is more than the name of the framework.

    Raises:
        WeightsError: it is cut off or damaged.
    """
    try:
        with open(path, "rb") as file:
            return _read(file)
    # A hostile or damaged header can fail in any way.
    except Exception as error:
        raise WeightsError(
            f"{path}: cut off or damaged ({str(error)[:200] or type(error).__name__}); get the "
            "file again, and compare its size and checksum with the source's"
        ) from None


def _read(file: BinaryIO) -> dict[str, Any]:
    size = os.fstat(file.fileno()).st_size
    header_size = int.from_bytes(file.read(8), "little")
    if header_size > min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(f"a header of {header_size} bytes in a file of {size}")
    header = json.loads(file.read(header_size), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("a header that is no object")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{METADATA} that are no texts")
    if len(header) > _MAX_TENSORS:
        raise ValueError(f"{len(header)} tensors")
    content: dict[str, Any] = {}
    spans = []
    data, end = 8 + header_size, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (start, stop) = (
            DTYPES.get(entry["dtype"]),
            entry["shape"],
            entry["data_offsets"],
        )
        if dtype is None:
            raise ValueError(
                f"{name} has numbers of type {entry['dtype']}, which are none of a ViT"
            )
        numbers = (*shape, start, stop)
        if len(shape) > _MAX_AXES or not all(
            isinstance(n, int) and 0 <= n < 2**60 for n in numbers
        ):
            raise ValueError(f"{name} has an impossible shape")
        count = math.prod(shape)
        if start != end or stop - start != count * dtype.itemsize or data + stop > size:
            raise ValueError(f"{name} is not where the header says")
        end = stop
        memory = torch.empty(stop - start, dtype=torch.uint8)
        spans.append(Span(name=name, offset=data + start, memory=memory.numpy().data))
        content[name] = memory.view(dtype).reshape(shape)
    if data + end != size:
        raise ValueError(f"{size - data - end} bytes that belong to no tensor")
    read_spans(file.fileno(), spans)
    # In the writer's order, which is not that of the data.
    content = {name: content[name] for name in header}
    return {**content, METADATA: metadata} if set(metadata) - {"format"} else content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("two entries of one name")
    return table

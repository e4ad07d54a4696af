# SPDX-License-Identifier: Apache-2.0
"""Small files that would take all the time or memory there is."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any

import numpy as np

from tests.checks.hostile_pickles import archive, honest_archive, inside, legacy, name, text

# 2^60 numbers, were each tuple copied wherever it is shown.
TOWER = b"K\x01" + b"2\x86" * 60
_ARRAY = (
    name("numpy._core.multiarray", "_reconstruct")
    + name("numpy", "ndarray")
    + b"K\x00\x85C\x01b\x87R"
)


def _dtype(kind: str) -> bytes:
    return name("numpy", "dtype") + text(kind) + b"\x89\x88\x87R"


def _device(kind: bytes) -> bytes:
    return b"\x80\x04" + name("torch", "device") + kind + b"\x85R."


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _shown_again(kind: str, length: int, times: int) -> bytes:
    """Arrays that share their data, and could not once they were read."""
    size = 1 << 20 if length > 255 else 255
    data = (b"B" + struct.pack("<I", size) if size > 255 else b"C\xff") + b"a" * size
    again = _ARRAY + b"(K\x01" + _number(length) + b"\x85h\x01\x89h\x00tb"
    return b"\x80\x04](" + data + b"q\x00" + _dtype(kind) + b"q\x010" + b"0" + again * times + b"e."


def _long_names() -> bytes:
    """A TorchScript archive of modules that share a module of tensors with long names."""
    records = honest_archive()
    data = next(entry for entry in records if entry.endswith("data.pkl"))
    storage = next(entry for entry in records if "/data/" in entry)
    numbers = len(records[storage]) // 4
    tensor = (
        name("torch._utils", "_rebuild_tensor_v2") + b"((" + text("storage")
        + name("torch", "FloatStorage") + text(storage.rpartition("/")[2]) + text("cpu")
        + b"K" + bytes([numbers]) + b"tQK\x00K\x01\x85K\x01\x85\x89NtR"
    )  # fmt: skip
    module = name("__torch__.a", "B") + b")\x81}("
    inner = module + b"".join(text(f"{i}" * 60_000) + b"h\x00" for i in range(8)) + b"ub"
    outer = module + b"".join(text(f"m{i}") + b"h\x01" for i in range(60_000)) + b"ub"
    program = b"\x80\x02" + tensor + b"q\x000" + inner + b"q\x010" + outer + b"."
    script = {data.replace("data.pkl", "code/a.py"): b""}
    return archive({**records, **script, data: program})


def safetensors(header: bytes | dict[str, Any], body: bytes = b"aaaa") -> bytes:
    """A file with any header."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + body


def entry(shape: list[int], stop: int) -> dict[str, Any]:
    """A tensor in the header."""
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, stop]}


def npz(
    shape: tuple[int, ...], body: bytes = b"", kind: str = "<f4", how: int = zipfile.ZIP_STORED
) -> bytes:
    """An archive of one array that claims what it likes."""
    array, buffer = io.BytesIO(), io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(array, header)
    with zipfile.ZipFile(buffer, "w", how) as stream:
        stream.writestr("a.npy", array.getvalue() + body)
    return buffer.getvalue()


BOMBS = {
    # Ten bytes that make the compiled reader ask for gigabytes.
    "memo far away": b"\x80\x02r\xff\xff\xff\x7fN.",
    "tuples of tuples": b"\x80\x04" + TOWER + b"\x85.",
    # The hash of such a key is computed anew each time.
    "key of tuples": b"\x80\x04}" + TOWER + b"K\x01s.",
    # The text of it would be as long as it looks.
    "device of tuples": _device(TOWER),
    "zone of tuples": b"\x80\x04" + name("datetime", "timezone") + TOWER + b"\x85R.",
    "number type of tuples": b"\x80\x04" + name("numpy", "dtype") + TOWER + b"\x85R.",
    "order of tuples": b"\x80\x04" + name("numpy._core.numeric", "_frombuffer") + b"(C\x04aaaa"
    + _dtype("f4") + b"K\x01\x85" + TOWER + b"tR.",
    # They are equal, which only a look at each number shows.
    "storages of tuples": legacy(b"\x80\x02}.")[:-4] + b"\x80\x02](" + TOWER + TOWER + b"e.",
    "copies of a list": b"\x80\x04](" + b"K\x01" * 50_000 + b"e\x940"
    + (name("builtins", "set") + b"h\x00\x85R0") * 20_000 + b"N.",
    "entries of settings": b"\x80\x04}(" + b"".join(b"J" + i.to_bytes(4, "little") + b"N" for i in
    range(20_000)) + b"u\x94" + b"0" + name("argparse", "Namespace") + b")\x81" + b"h\x00b" * 20_000
    + b".",
    "memory of a class": b"\x80\x04" + name("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R.",
    "numbers of any length": b"\x80\x04\x8b\xff\xff\xff\x7f.",
    "a shape of huge numbers": b"\x80\x04" + _dtype("f4") + b"\x940"
    + name("numpy._core.numeric", "_frombuffer") + b"(C\x04aaaah\x00("
    + (b"\x8a\xff" + b"\x7f" * 255) * 5000 + b"tX\x01\x00\x00\x00CtR.",
    "texts shown again": _shown_again("S1", 1 << 20, 400),
    "short texts shown again": _shown_again("S1", 255, 20_000),
    "long doubles shown again": _shown_again("f16", 1 << 16, 4000),
    "a billion empty texts": b"\x80\x04]" + _ARRAY + b"(K\x01" + _number(10**9) + b"K\x00\x86"
    + _dtype("S1") + b"\x89C\x00tba.",
    "modules with long names": _long_names(),
    "pickle in an archive": inside(_device(TOWER), "zip"),
    "safetensors of many axes": safetensors({"a": entry([2**59] * 300_000, 4)}),
    "safetensors of terabytes": safetensors({"a": entry([2**40], 2**42)}),
    "safetensors with a long header": struct.pack("<Q", 2**63) + b"{}",
    "safetensors in safetensors": safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "safetensors of many digits": safetensors(b'{"a":{"shape":[' + b"9" * 10**6 + b"]}}"),
    "npz of terabytes": npz((2**40,)),
    "npz without end": npz((2**62, 0)),
    "npz with a dictionary": npz((1,), b"aaaa", how=zipfile.ZIP_LZMA),
    "npz of texts": npz((2,), b"a" * 32, kind="<U4"),
}  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Pickles that no honest program writes: attacks, and random programs."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import pickletools
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def attacks(marker: Path) -> dict[str, bytes]:
    """Programs that would make the folder ``marker``, by the way they take."""
    target = str(marker)
    code = f"__import__('os').mkdir({target!r})"

    class ByReduce:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (target,)

    return {
        "os.system": b"\x80\x02" + name("posix", "system") + text(f"mkdir {target}") + b"\x85R.",
        "eval": b"\x80\x02" + name("__builtin__", "eval") + text(code) + b"\x85R.",
        # getattr(__import__("os"), "mkdir")(target), attribute by attribute
        "nested getattr": b"\x80\x04"
        + name("builtins", "getattr")
        + name("builtins", "__import__")
        + text("os")
        + b"\x85R"
        + text("mkdir")
        + b"\x86R"
        + text(target)
        + b"\x85R.",
        # an allowed function, and a dotted path from its module to others
        "codecs": b"\x80\x04"
        + text("_codecs")
        + text("encode.__self__.__loader__.load_module")
        + b"\x93"
        + text("os")
        + b"\x85R.",
        "__reduce__": pickle.dumps(ByReduce(), 2),
        # an allowed object gets a method of the attacker's by its state
        "BUILD": b"\x80\x02"
        + name("argparse", "Namespace")
        + b")\x81}"
        + text("__setstate__")
        + name("os", "mkdir")
        + b"sb"
        + text(target)
        + b"b.",
        # the function goes into the memo below the number of an honest one
        "memo": b"\x80\x02"
        + name("collections", "OrderedDict")
        + b"q\x05"
        + name("os", "mkdir")
        + b"q\x0500h\x05"
        + text(target)
        + b"\x85R.",
    }


def honest_pickles() -> list[bytes]:
    content = {
        "model": OrderedDict(
            w=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.zeros(100), t=np.float64(2)
        ),
        "args": argparse.Namespace(lr=0.1, path=Path("/a"), sizes=(1, [2, {3}]), name="x" * 300),
        "big": np.zeros(3, ">i4"),
    }
    return [pickle.dumps(content, protocol) for protocol in (2, 3, 4, 5)]


def honest_archive() -> dict[str, bytes]:
    """Records of a file of torch, by name."""
    linear = torch.nn.Linear(2, 3)
    buffer = io.BytesIO()
    content = {"model": linear.state_dict(), "p": linear.weight, "args": argparse.Namespace(a=1)}
    torch.save({**content, "u": torch.ones(2, dtype=torch.uint16), "n": np.ones(2)}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {entry: archive.read(entry) for entry in archive.namelist()}


def archive(records: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as stream:
        for entry, data in records.items():
            stream.writestr(entry, data)
    return buffer.getvalue()


def legacy(program: bytes) -> bytes:
    """The program inside a file of torch < 1.6."""
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer, _use_new_zipfile_serialization=False)
    head = buffer.getvalue()
    start = head.index(b"\x80\x02}q", head.index(b"little_endian") + 1)
    return head[:start] + program + pickle.dumps([], 2)


def inside(program: bytes, form: str) -> bytes:
    """The program inside a file: a pickle, a zip archive of torch, TorchScript, or legacy."""
    if form == "pickle":
        return program
    if form == "legacy":
        return legacy(program)
    records = honest_archive()
    data = next(entry for entry in records if entry.endswith("data.pkl"))
    script = {data.replace("data.pkl", "code/a.py"): b"1/0"} if form == "torchscript" else {}
    return archive({**records, **script, data: program})


_MODULES = (
    "os system|os mkdir|posix system|subprocess Popen|builtins eval|builtins exec|builtins getattr|"
    "builtins __import__|builtins bytearray|builtins set|builtins list|builtins range|"
    "collections OrderedDict|collections defaultdict|_codecs encode|argparse Namespace|"
    "numpy dtype|numpy ndarray|numpy.core.multiarray _reconstruct|numpy.core.multiarray scalar|"
    "numpy._core.numeric _frombuffer|pathlib PosixPath|datetime timedelta|datetime datetime|"
    "torch Size|torch device|torch FloatStorage|torch uint16|torch._utils _rebuild_tensor_v2|"
    "torch._utils _rebuild_tensor_v3|torch._tensor _rebuild_from_type_v2|__torch__.a B"
).split("|")
_OPCODES = [opcode for opcode in pickletools.opcodes if opcode.name not in ("STOP", "PROTO")]
_PUSHES = [opcode for opcode in _OPCODES if not opcode.stack_before and opcode.stack_after]


def _argument(opcode: pickletools.OpcodeInfo, rng: random.Random) -> bytes:
    """Return some argument of an opcode, mostly of the right form."""
    kind = None if opcode.arg is None else opcode.arg.name
    if kind is None:
        return b""
    if kind == "stringnl_noescape_pair":
        return rng.choice(_MODULES).replace(" ", "\n").encode() + b"\n"
    if kind in ("uint1", "uint2", "int4", "uint4", "uint8"):
        size = int(kind[-1])
        if rng.random() < 0.1:
            return rng.randbytes(size)
        return rng.randrange(12).to_bytes(size, "little")
    if kind == "float8":
        return struct.pack(">d", rng.random())
    if "nl" in kind:
        return rng.choice([b"1\n", b"0\n", b"'a'\n", b"f4\n", b"-7\n", b"storage\n", b"01\n"])
    # A length, and as many bytes.
    width = int(kind[-1])
    data = rng.choice([b"", b"a", b"f4", b"<", b"storage", b"0", b"latin1", b"\0" * 8, b"m" * 400])
    if width == 1:
        data = data[:200]
    return len(data).to_bytes(width, "little") + data


def random_program(rng: random.Random) -> bytes:
    """Return opcodes in any order, often after values that they can work on."""
    parts = [b"\x80", bytes([rng.choice([2, 3, 4, 5])])]
    for _ in range(rng.randrange(1, 40)):
        if rng.random() < 0.3:  # a call, which random opcodes would hardly make
            count = rng.choice([b")", b"K\x03\x85", text("f4") + b"K\x02\x86", b"h\x00\x85"])
            parts += [name(*rng.choice(_MODULES).split(" ")), count, rng.choice([b"R", b"\x81"])]
            parts.append(rng.choice([b"", b"q\x00", b"}b", b"Nb", b"2", b"\x94"]))
            continue
        opcode = rng.choice(_PUSHES if rng.random() < 0.5 else _OPCODES)
        parts += [opcode.code.encode("latin1"), _argument(opcode, rng)]
    return b"".join(parts) + b"."


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return an honest file with some of its bytes changed, cut out, or doubled."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        position = rng.randrange(2, len(changed))
        way = rng.random()
        if way < 0.5:
            changed[position] = rng.randrange(256)
        elif way < 0.65:
            del changed[position : position + rng.randrange(1, 20)]
        elif way < 0.8:
            start = rng.randrange(len(changed))
            changed[position:position] = changed[start : start + rng.randrange(1, 40)]
        elif way < 0.9:
            opcode = rng.choice(_OPCODES)
            changed[position:position] = opcode.code.encode("latin1") + _argument(opcode, rng)
        else:
            changed[position:position] = name(*rng.choice(_MODULES).split(" ")) + b")R"
        if len(changed) < 10:
            break
    return bytes(changed)


def fuzzed(count: int, seed: int) -> Iterator[bytes]:
    """Yield files: mutations of honest pickles and archives, and random programs in both."""
    rng = random.Random(seed)
    pickles, records = honest_pickles(), honest_archive()
    data_name = next(entry for entry in records if entry.endswith("/data.pkl"))
    root = data_name.removesuffix("data.pkl")
    for _ in range(count):
        way = rng.randrange(5)
        if way == 0:
            yield mutated(rng.choice(pickles), rng)
        elif way < 3:
            yield random_program(rng)
        else:
            program = mutated(records[data_name], rng) if way == 3 else random_program(rng)
            script = {f"{root}code/a.py": b"1/0"} if rng.random() < 0.3 else {}
            yield archive({**records, **script, data_name: program})

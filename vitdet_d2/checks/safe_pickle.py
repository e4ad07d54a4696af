# SPDX-License-Identifier: Apache-2.0
"""Reading pickled weights without running what the file asks for.

A pickle is a program. The few names that honest weight files use are replaced by the functions and
placeholders below, which can only make numbers and arrays; every other name is an error that says
it. The same replacements serve ``torch.load(weights_only=True)``.

Vocabulary:
    name: the dotted path of a class or function that a pickle asks for.
    placeholder: stands for an array, a dtype or a settings object until the file is read to its
        end; ``plain`` turns the result into dictionaries, lists, numbers and arrays.
"""

from __future__ import annotations

import math
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, cast

import numpy as np

from vitdet_d2.errors import WeightsError

# The largest released ViTDet file holds 2.8 GB; larger pickles are no model of ours.
MAX_FILE_BYTES = 16 * 1024**3
# Text lines (names, numbers) of honest pickles have at most some hundred characters.
MAX_LINE_BYTES = 64 * 1024

_DTYPE = re.compile(r"[<>|=]?(?:[?]|[biufc]\d{1,2})")


class UnsafeNameError(pickle.UnpicklingError):
    """A pickle asks for a name that weight files have no use for."""

    def __init__(self, name: str) -> None:
        """Remember the name.

        Args:
            name: the dotted path.
        """
        super().__init__(f"the file asks for the Python object `{name}`")
        self.name = name


class DtypePlaceholder:
    """A numpy number type; its byte order arrives after its size."""

    def __init__(self, spec: Any, align: Any = False, copy: Any = True) -> None:  # noqa: ARG002
        """Read the size.

        Args:
            spec: a short name such as ``f4``.
            align: of no use for numbers.
            copy: of no use for numbers.

        Raises:
            pickle.UnpicklingError: it is no type of plain numbers.
        """
        text = spec.decode("ascii", "replace") if isinstance(spec, bytes) else str(spec)
        if not _DTYPE.fullmatch(text):
            raise pickle.UnpicklingError(f"arrays of type {text[:40]!r} hold no plain numbers")
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        """Read the byte order: ``(version, order, None, None, None, -1, -1, 0)``.

        Raises:
            pickle.UnpicklingError: it is no type of plain numbers.
        """
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise pickle.UnpicklingError("an array type with fields or subarrays")
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("an unknown byte order")
        self.value = self.value.newbyteorder(cast(Literal["<", ">", "|", "="], order))


class ArrayPlaceholder:
    """A numpy array; what it holds arrives after it was asked for."""

    def __init__(self, kind: Any = None, shape: Any = (0,), typecode: Any = b"b") -> None:  # noqa: ARG002
        """Start empty; the arguments are those of numpy's own reader, and of no use.

        Args:
            kind: the class of the array.
            shape: empty.
            typecode: of no meaning for an empty array.
        """
        self.value = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        """Read ``(version, shape, dtype, is_fortran, bytes)``; the version may be missing.

        Raises:
            pickle.UnpicklingError: it is no array of numbers.
        """
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise pickle.UnpicklingError("an array of an unknown format")
        shape, dtype, is_fortran, raw = state[-4:]
        self.value = _array(raw, dtype, shape, "F" if is_fortran else "C")


class SettingsPlaceholder:
    """A settings object of a training script (``argparse.Namespace``); becomes a dictionary."""


def _array(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, DtypePlaceholder):
        raise pickle.UnpicklingError("an array without a number type")
    if isinstance(raw, str):
        raw = raw.encode("latin1")  # written by Python 2
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not isinstance(raw, (bytes, bytearray)) or not all(
        isinstance(size, int) and size >= 0 for size in shape
    ):
        raise pickle.UnpicklingError("an array that is not made of numbers")
    if math.prod(shape) * dtype.value.itemsize != len(raw):
        raise pickle.UnpicklingError(f"an array of shape {shape} in {len(raw)} bytes")
    array = np.frombuffer(raw, dtype=dtype.value).reshape(shape, order="F" if order == "F" else "C")
    return array.astype(dtype.value.newbyteorder("="), order="C")  # a copy that may be written


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> ArrayPlaceholder:
    placeholder = ArrayPlaceholder()
    placeholder.value = _array(raw, dtype, shape, str(order))
    return placeholder


def _scalar(dtype: Any, raw: Any) -> int | float | complex | bool:
    return _array(raw, dtype, (), "C").item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("a text that is no binary data")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


class _NdarrayName:
    """Stands for the class ``numpy.ndarray``, which is only ever passed to ``_reconstruct``."""


_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
# A class of dtypes is asked for beside its instances by some versions of numpy.
_DTYPE_CLASSES = [f"Float{n}DType" for n in (16, 32, 64)] + [
    f"{sign}Int{n}DType" for sign in ("", "U") for n in (8, 16, 32, 64)
]

SAFE_NAMES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "builtins.bytes": _empty_bytes,
    "__builtin__.bytes": _empty_bytes,
    "argparse.Namespace": SettingsPlaceholder,
    "numpy.ndarray": _NdarrayName,
    "numpy.dtype": DtypePlaceholder,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    **{f"{module}._reconstruct": ArrayPlaceholder for module in _NUMPY_MODULES},
    **{f"{module}.scalar": _scalar for module in _NUMPY_MODULES},
    **{f"numpy.dtypes.{name}": DtypePlaceholder for name in (*_DTYPE_CLASSES, "BoolDType")},
}


def plain(value: Any) -> Any:
    """Replace placeholders by what they stand for.

    Args:
        value: a result of unpickling.

    Returns:
        The same nest of dictionaries, lists and tuples; what was shared stays shared.

    Raises:
        WeightsError: the nest is deeper than any checkpoint.
    """
    try:
        return _plain(value, {})
    except RecursionError:
        raise WeightsError(
            "refused: the data is nested too deeply to be a checkpoint; check where it is from"
        ) from None


def _plain(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, (DtypePlaceholder, ArrayPlaceholder)):
        return value.value
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, SettingsPlaceholder):
        value = value.__dict__
    if isinstance(value, dict):
        table: dict[Any, Any] = {}
        done[id(value)] = table
        table.update((key, _plain(item, done)) for key, item in value.items())
        return table
    if isinstance(value, list):
        items: list[Any] = []
        done[id(value)] = items
        items.extend(_plain(item, done) for item in value)
        return items
    if isinstance(value, tuple):
        return tuple(_plain(item, done) for item in value)
    return value


class _BoundedFile:
    """A binary file that never hands out (or makes room for) more than it holds."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, count: int = -1) -> bytes:
        """Read exactly ``count`` bytes.

        Raises:
            EOFError: the file ends before.
        """
        if not 0 <= count <= self._left:
            raise EOFError("the file ends in the middle of a value")
        self._left -= count
        return self._file.read(count)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        data = self.read(len(buffer))
        buffer[:] = data
        return len(data)

    def readline(self) -> bytes:
        """Read a line of bounded length."""
        line = self._file.readline(min(MAX_LINE_BYTES, self._left))
        self._left -= len(line)
        return line


# Opcodes that weight files have no use for; they reach objects without naming them.
_REFUSED = (
    pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
    pickle.EXT1,
    pickle.EXT2,
    pickle.EXT4,
    pickle.PERSID,
    pickle.BINPERSID,
    pickle.INST,
    pickle.OBJ,
)


# The pure-Python reader: the compiled one makes room for a memo as large as the file tells it to.
class _RestrictedUnpickler(pickle._Unpickler):
    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Any]] = {
        code: method
        for code, method in pickle._Unpickler.dispatch.items()
        if code not in {opcode[0] for opcode in _REFUSED}
    }

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(_BoundedFile(file, size), encoding="latin1")
        self._encoded_left = size

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return the replacement of a name.

        Raises:
            UnsafeNameError: the name has none.
        """
        dotted = f"{module}.{name}"
        if dotted == "_codecs.encode":
            return self._encode
        if dotted not in SAFE_NAMES:
            raise UnsafeNameError(dotted)
        return SAFE_NAMES[dotted]

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        # A text can be repeated in a few bytes; what comes of it cannot exceed an honest file.
        encoded = _encode(text, encoding)
        self._encoded_left -= len(encoded)
        if self._encoded_left < 0:
            raise pickle.UnpicklingError("the data is larger than the file that holds it")
        return encoded

    def load_bytearray8(self) -> None:
        """Read an array's memory; the original makes room for it before it looks for the data."""
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_build(self) -> None:
        """Give state to a placeholder; attributes of dictionaries are of no use here.

        Raises:
            pickle.UnpicklingError: state for anything else.
        """
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, (ArrayPlaceholder, DtypePlaceholder)):
            target.__setstate__(state)
        elif isinstance(target, SettingsPlaceholder) and isinstance(state, dict):
            target.__dict__.update(state)
        elif not isinstance(target, OrderedDict):
            raise pickle.UnpicklingError("state for an object that has none")

    dispatch[pickle.BUILD[0]] = load_build


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of plain data: containers, numbers, texts and numpy arrays.

    Args:
        path: a local file; pickled by any Python, also by Python 2.

    Returns:
        The object, made of built-in containers, numbers, texts and arrays only.

    Raises:
        WeightsError: the file is too large, damaged, or asks for anything else; the message names
            what.
    """
    size = Path(path).stat().st_size
    if size > MAX_FILE_BYTES:
        raise WeightsError(
            f"{path}: a pickle of {size} bytes is larger than any model ({MAX_FILE_BYTES}); "
            "convert it to .safetensors where it was made"
        )
    try:
        with open(path, "rb") as file:
            return plain(_RestrictedUnpickler(file, size).load())
    except UnsafeNameError as error:
        raise WeightsError(unsafe_message(path, error.name)) from None
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    # A hostile or damaged program can fail in any way; none of them ran anything but our code.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise WeightsError(
            f"{path}: damaged, or no pickle of weights ({reason[:200]}); get the file again, and "
            "compare its size and checksum with the source's"
        ) from None


def unsafe_message(path: str | os.PathLike[str], name: str) -> str:
    """Return the message for a file that asks for a name not in ``SAFE_NAMES``."""
    return (
        f"{path}: refused, the file asks for the Python object `{name}`, which weights do not "
        "need and which could run code. If you trust where it is from, load it there and save "
        "only its tensors, best as .safetensors"
    )

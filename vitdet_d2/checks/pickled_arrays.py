# SPDX-License-Identifier: Apache-2.0
"""numpy's types, arrays and scalars in pickles, made without numpy's own reader."""

from __future__ import annotations

import math
import pickle
import re
from typing import Any, Literal, cast

import numpy as np

from vitdet_d2.checks.placeholders import Blob, LongText, Placeholder, short_text

# Numbers; a bool is "?" or "b1".
_NUMBERS = re.compile(r"[<>|=]?(?:[?]|[biufc]\d{1,2})")
# Texts, which settings hold as numpy scalars; of bounded length.
_TEXTS = re.compile(r"[<>|=]?[US]\d{1,5}")
# Arrays have at most 64 axes in numpy 2.
_MAX_AXES = 64


class Dtype(Placeholder):
    """A numpy type; its byte order arrives after its size."""

    def __init__(self, spec: Any, align: Any = False, copy: Any = True) -> None:  # noqa: ARG002
        """Read the size.

        Args:
            spec: a short name such as ``f4``.
            align: of no use for numbers.
            copy: of no use for numbers.

        Raises:
            pickle.UnpicklingError: it is no type of plain numbers or texts.
        """
        text = short_text(spec)
        if not _NUMBERS.fullmatch(text) and not _TEXTS.fullmatch(text):
            raise pickle.UnpicklingError(f"arrays of type {text[:40]!r} hold no plain numbers")
        self.value = np.dtype(text)

    def build(self, state: Any) -> None:
        """Read the byte order: ``(version, order, None, None, None, size, alignment, flags)``.

        Raises:
            pickle.UnpicklingError: it is no type of plain numbers.
        """
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise pickle.UnpicklingError("an array type with fields or subarrays")
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("an unknown byte order")
        self.value = self.value.newbyteorder(cast(Literal["<", ">", "|", "="], order))

    def result(self) -> str:
        """Return its name."""
        return str(self.value)


class Array(Placeholder):
    """A numpy array; what it holds arrives after it was asked for."""

    def __init__(self, kind: Any = None, shape: Any = (0,), typecode: Any = b"b") -> None:  # noqa: ARG002
        """Start empty; the arguments are those of numpy's own reader, and of no use.

        Args:
            kind: the class of the array.
            shape: empty.
            typecode: of no meaning for an empty array.
        """
        self.value = np.empty(0)

    def build(self, state: Any) -> None:
        """Read ``(version, shape, dtype, is_fortran, bytes)``; the version may be missing.

        Raises:
            pickle.UnpicklingError: it is no array of numbers.
        """
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise pickle.UnpicklingError("an array of an unknown format")
        shape, dtype, is_fortran, raw = state[-4:]
        self.value = _array(raw, dtype, shape, "F" if is_fortran else "C")

    def result(self) -> Any:
        """Return the array; one of texts is a list."""
        if self.value.dtype.kind in "US":
            return self.value.tolist()
        if _is_extended(self.value.dtype):
            return self.value.astype(np.float64 if self.value.dtype.kind == "f" else np.complex128)
        return self.value


def _array(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, Dtype):
        raise pickle.UnpicklingError("an array without a number type")
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if len(shape) > _MAX_AXES or not all(
        isinstance(size, int) and 0 <= size < 2**63 for size in shape
    ):
        raise pickle.UnpicklingError("an array of an impossible shape")
    blob = _blob(raw)
    memory = blob.memory
    if math.prod(shape) * dtype.value.itemsize != len(memory):
        raise pickle.UnpicklingError(f"an array of shape {shape} in {len(memory)} bytes")
    array = memory.view(dtype.value).reshape(shape, order="F" if order == "F" else "C")
    if not array.dtype.isnative or not array.flags.c_contiguous:
        blob.copy_once()
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind in "US" or _is_extended(array.dtype):
        # Texts become lists in the end, and extended precision becomes double.
        blob.copy_once()
    if array.dtype.kind in "US" and array.ndim > 1:
        raise pickle.UnpicklingError("texts in more than one axis")
    return np.require(array, requirements="C")  # no copy where it is so already


def _is_extended(dtype: np.dtype[Any]) -> bool:
    """Whether numbers have more precision than torch has."""
    return dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16)


def _blob(raw: Any) -> Blob:
    if isinstance(raw, LongText):
        return raw.encoded()
    if isinstance(raw, Blob):
        return raw
    if isinstance(raw, str):
        raw = raw.encode("latin1")  # written by Python 2
    if not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError("an array that is not made of numbers")
    return Blob(np.frombuffer(bytearray(raw), np.uint8))


def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """Return an array of raw data.

    Args:
        raw: its bytes.
        dtype: a `Dtype`.
        shape: a tuple.
        order: "C" or "F".
    """
    placeholder = Array()
    placeholder.value = _array(raw, dtype, shape, short_text(order))
    return placeholder


def scalar(dtype: Any, raw: Any) -> int | float | complex | bool | str | bytes:
    """Return a number (or a text) of raw data.

    Args:
        dtype: a `Dtype`.
        raw: its bytes.
    """
    value = _array(raw, dtype, (), "C").item()
    # Extended precision stays numpy's own type.
    return float(value) if isinstance(value, np.floating) else value

# SPDX-License-Identifier: Apache-2.0
"""Columns of untrusted JSON values as numpy arrays: fast where all is well, exact where it is not.

A *namer* turns a position into words for a message, such as ``annotation 7 (image 3)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import DataError

Namer = Callable[[int], str]

# "7" is 7, but "07" and "7.0" may be another image's id in somebody else's reading.
_PLAIN_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")


def quote(value: object) -> str:
    """Short form of a value for a one-line message."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."


def as_integer(value: object) -> int | None:
    """Read an integer from an int, an integral float or a plain decimal string; None otherwise."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _PLAIN_INTEGER.fullmatch(value):
        return int(value)
    return None


def integer_column(values: Sequence[Any], key: str, name: Namer) -> tuple[np.ndarray, list[int]]:
    """Read a column of integers.

    Args:
        values: one per row.
        key: what the column is called in the file.
        name: words for a row.

    Returns:
        ``(N,)`` int64, and the rows that were not integers in the file but could be read as such.

    Raises:
        DataError: a value is no integer, or beyond 64 bits.
    """
    coerced = []
    if not set(map(type, values)) <= {int}:
        numbers = [as_integer(value) for value in values]
        for row, (number, value) in enumerate(zip(numbers, values, strict=True)):
            if number is None:
                raise DataError(
                    f"{name(row)}: expected an integer {key!r}, got {quote(value)}; "
                    "give every entry a whole number"
                )
            if not isinstance(value, (int, np.integer)):
                coerced.append(row)
        values = numbers
    try:
        return np.array(values, dtype=np.int64), coerced
    except OverflowError as error:
        row = next(i for i, v in enumerate(values) if not -(2**63) <= v < 2**63)
        raise DataError(
            f"{name(row)}: {key!r} {quote(values[row])} does not fit 64 bits; renumber"
        ) from error


def box_column(values: Sequence[Any], name: Namer) -> np.ndarray:
    """Read a column of boxes.

    Args:
        values: one list of 4 numbers per row.
        name: words for a row.

    Returns:
        ``(N, 4)`` float64, every number finite.

    Raises:
        DataError: a box is missing, is not 4 numbers, or holds NaN or infinity.
    """
    for row, value in enumerate(values):
        # A plain loop: 0.1 s for a million boxes, and it names the culprit.
        if not isinstance(value, (list, tuple, np.ndarray)) or len(value) != 4:
            raise DataError(
                f"{name(row)}: expected 'bbox' [x, y, width, height], got {quote(value)}; "
                "add the box or remove the entry"
            )
    flat = [number for value in values for number in value]
    boxes = number_array(flat)
    if boxes is None or not np.isfinite(boxes).all():
        bad = next(i for i, v in enumerate(flat) if not is_finite_number(v))
        raise DataError(
            f"{name(bad // 4)}: expected 4 finite numbers in 'bbox', got {quote(flat[bad])}; "
            "correct or remove the entry"
        )
    return boxes.reshape(-1, 4)


def number_array(values: Sequence[Any]) -> np.ndarray | None:
    """``(N,)`` float64 of Python or numpy numbers; None where one is something else."""
    kinds = set(map(type, values))
    if not kinds <= {int, float} and not all(
        issubclass(kind, (int, float, np.number)) and kind is not bool for kind in kinds
    ):
        return None
    try:
        return np.fromiter(values, dtype=np.float64, count=len(values))
    except (OverflowError, TypeError):
        return None


def is_finite_number(value: object) -> bool:
    """Whether a value is a finite int or float, and no bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return False
    try:
        return bool(np.isfinite(float(value)))
    except (OverflowError, TypeError):
        return False

# SPDX-License-Identifier: Apache-2.0
"""Checks of COCO masks without the C library, which crashes on, or invents, what is malformed.

Polygons are ``[[x0, y0, x1, y1, ...], ...]`` in pixels. A run-length mask (RLE) is
``{"size": [h, w], "counts": ...}``: the lengths of alternating runs of 0 and 1 in column order,
either as a list or packed into a string.

Source of the packing: cocodataset/cocoapi, ``common/maskApi.c``, ``rleFrString``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from ..errors import DataError
from .coco_values import Namer, is_finite_number, number_array, quote

# Sides of the image that a polygon may reach beyond it, as polygons of cropped tiles do. The C code
# allocates memory in proportion to a polygon's length, and overflows beyond 4e8.
REACH = 16
# Entries looked at together: bounds the memory, some 100 MB.
BLOCK = 1 << 15
# 5 bits each: up to 2^35, more than any picture has pixels.
MAX_CHARACTERS = 7


def check_polygons(
    polygons: Sequence[Any], sides: np.ndarray, name: Namer
) -> tuple[np.ndarray, np.ndarray]:
    """Check polygon masks.

    Args:
        polygons: per row the ``segmentation``, a non-empty list.
        sides: ``(N,)`` longer side of each row's image in pixels.
        name: words for a row.

    Returns:
        Rows of the polygons that no mask can be made of (fewer than 3 points or an odd count), and
        their position in the row's list.

    Raises:
        DataError: a mask is no list of lists of numbers, or a coordinate is NaN, infinite or far
            outside the image.
    """
    rows, positions = [], []
    for start in range(0, len(polygons), BLOCK):
        block = polygons[start : start + BLOCK]
        parts_per_row = np.fromiter(map(len, block), np.int64, len(block))
        parts = list(chain.from_iterable(block))
        owner = np.repeat(np.arange(start, start + len(block)), parts_per_row)
        _check_part_types(parts, owner, name)
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        _check_coordinates(parts, lengths, owner, sides, name)
        bad = np.flatnonzero((lengths < 6) | (lengths % 2 == 1))
        first_part = np.cumsum(parts_per_row) - parts_per_row
        rows.append(owner[bad])
        positions.append(bad - first_part[owner[bad] - start])
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *rows]), np.concatenate([empty, *positions])


def _check_part_types(parts: list[Any], owner: np.ndarray, name: Namer) -> None:
    if set(map(type, parts)) <= {list, tuple}:
        return
    bad = next(i for i, part in enumerate(parts) if not isinstance(part, (list, tuple)))
    raise DataError(
        f"{name(int(owner[bad]))}: expected 'segmentation' [[x, y, x, y, ...], ...], a list of "
        f"polygons, got {quote(parts[bad])} inside the outer list; put each polygon in a list"
    )


def _check_coordinates(
    parts: list[Any], lengths: np.ndarray, owner: np.ndarray, sides: np.ndarray, name: Namer
) -> None:
    flat = list(chain.from_iterable(parts))
    if not flat:
        return
    numbers = number_array(flat)
    row_of = np.repeat(owner, lengths)
    if numbers is None or not np.isfinite(numbers).all():
        bad = next(i for i, value in enumerate(flat) if not is_finite_number(value))
        raise DataError(
            f"{name(int(row_of[bad]))}: expected finite numbers in 'segmentation', "
            f"got {quote(flat[bad])}; correct or remove the annotation"
        )
    far = np.flatnonzero(np.abs(numbers) > REACH * sides[row_of])
    if len(far):
        row = int(row_of[far[0]])
        raise DataError(
            f"{name(row)}: polygon coordinate {numbers[far[0]]:g} is far outside the image, whose "
            f"longer side is {int(sides[row])}; correct or remove the annotation"
        )


def check_rles(rles: Sequence[dict[str, Any]], sizes: np.ndarray, name: Namer) -> np.ndarray:
    """Check run-length masks.

    Args:
        rles: per row the ``segmentation``, a dictionary.
        sizes: ``(N, 2)`` height and width of each row's image.
        name: words for a row.

    Returns:
        ``(N,)`` int64 number of mask pixels.

    Raises:
        DataError: a size differs from the image's, counts are malformed or negative, or do not add
            up to the number of pixels.
    """
    areas = np.zeros(len(rles), np.int64)
    for row, rle in enumerate(rles):
        _check_rle_form(rle, sizes[row], name, row)
    packed = [row for row, rle in enumerate(rles) if not isinstance(rle["counts"], list)]
    plain = [row for row, rle in enumerate(rles) if isinstance(rle["counts"], list)]
    for rows, unpack in ((packed, _unpack), (plain, _flatten)):
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            counts, lengths = unpack([rles[row]["counts"] for row in block], block, name)
            _check_counts(counts, lengths, block, sizes, name)
            # Odd positions are the runs of ones.
            first = np.cumsum(lengths) - lengths
            odd = (np.arange(len(counts)) - np.repeat(first, lengths)) % 2 == 1
            areas[block] = np.add.reduceat(np.where(odd, counts, 0), first)
    return areas


def _check_rle_form(rle: dict[str, Any], size: np.ndarray, name: Namer, row: int) -> None:
    got = rle.get("size")
    if not isinstance(got, (list, tuple)) or list(got) != size.tolist():
        raise DataError(
            f"{name(row)}: the mask's 'size' is {quote(got)}, the image's [height, width] is "
            f"{size.tolist()}; they must be equal: encode the mask again"
        )
    counts = rle.get("counts")
    if not isinstance(counts, (list, str, bytes)) or not len(counts):
        raise DataError(
            f"{name(row)}: expected the mask's 'counts' as a list of run lengths or a packed "
            f"string, got {quote(counts)}; encode the mask again"
        )


def _flatten(
    counts: list[list[Any]], rows: list[int], name: Namer
) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of a block of lists, one after the other, and how many each mask has.

    Raises:
        DataError: an entry is no whole number.
    """
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    flat = list(chain.from_iterable(counts))
    numbers = number_array(flat)
    whole = numbers is not None and bool((numbers == np.floor(numbers)).all())
    if numbers is None or not whole or not (np.abs(numbers) < 2**40).all():
        fine = (is_finite_number(v) and v == int(v) and abs(v) < 2**40 for v in flat)
        bad = next(i for i, is_fine in enumerate(fine) if not is_fine)
        row = rows[int(np.repeat(np.arange(len(rows)), lengths)[bad])]
        raise DataError(
            f"{name(row)}: expected whole run lengths in the mask's 'counts', "
            f"got {quote(flat[bad])}; encode the mask again"
        )
    return numbers.astype(np.int64), lengths


def _unpack(
    counts: list[str | bytes], rows: list[int], name: Namer
) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of a block of packed strings, one after the other, and how many each mask has.

    A number is packed in characters of 5 bits, lowest first; bit 6 says that more follow, bit 5 of
    the last is the sign. From the fourth run on it is the difference to the run before last.

    Raises:
        DataError: a string is no packing of numbers.
    """
    texts = [text if isinstance(text, bytes) else text.encode("utf-8") for text in counts]
    characters = np.fromiter(map(len, texts), np.int64, len(texts))
    codes = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    text_end = np.cumsum(characters) - 1
    text_of = np.repeat(np.arange(len(texts)), characters)
    ends = np.flatnonzero((codes & 0x20) == 0)
    bad = (codes < 0) | (codes > 63)
    # Every text must end a number, or the C code reads past its end.
    bad[text_end[(codes[text_end] & 0x20) != 0]] = True
    if not bad.any():
        starts = np.concatenate([[0], ends[:-1] + 1])
        widths = ends - starts + 1
        bad[starts[widths > MAX_CHARACTERS]] = True
    if bad.any():
        row = rows[int(text_of[bad.argmax()])]
        raise DataError(
            f"{name(row)}: the mask's packed 'counts' are damaged; encode the mask again"
        )
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, widths))
    values = np.add.reduceat((codes & 0x1F) << shifts, starts)
    values -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * widths), 0)
    lengths = np.bincount(text_of[ends], minlength=len(texts))
    return _undo_differences(values, lengths), lengths


def _undo_differences(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Add to each value of a mask, from the fourth on, the run two before it."""
    first = np.cumsum(lengths) - lengths
    position = np.arange(len(values)) - np.repeat(first, lengths)
    # Three chains per mask: the first run alone, the other even ones, the odd ones.
    chain_of = np.repeat(3 * np.arange(len(lengths)), lengths)
    chain_of += np.where(position == 0, 0, 1 + position % 2)
    order = np.argsort(chain_of, kind="stable")
    sums = np.cumsum(values[order])
    heads = np.flatnonzero(np.diff(chain_of[order], prepend=-1))
    before = np.concatenate([[0], sums])[heads]
    sums -= np.repeat(before, np.diff(heads, append=len(order)))
    counts = np.empty_like(values)
    counts[order] = sums
    return counts


def _check_counts(
    counts: np.ndarray, lengths: np.ndarray, rows: list[int], sizes: np.ndarray, name: Namer
) -> None:
    first = np.cumsum(lengths) - lengths
    sums = np.add.reduceat(counts, first)
    pixels = sizes[rows].prod(1)
    bad = np.flatnonzero((np.minimum.reduceat(counts, first) < 0) | (sums != pixels))
    if len(bad):
        row = rows[int(bad[0])]
        height, width = sizes[row].tolist()
        raise DataError(
            f"{name(row)}: the mask's run lengths must be >= 0 and add up to {height} x {width} = "
            f"{height * width} pixels, got a sum of {int(sums[bad[0]])}; encode the mask again"
        )

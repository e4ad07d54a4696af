# SPDX-License-Identifier: Apache-2.0
"""COCO's run-length code of masks that are known inside of a window each.

COCO reads a mask column by column, counts the pixels of each run, zeros first, and writes the
counts as text. Outside of its window a mask is 0, so that only windows are looked at, and those of
all masks of an image at once.

Shapes: H x W pixels of the image; N windows of w x h pixels each; C changes between 0 and 1 in all
of them; R runs.

Source: the format of pycocotools' ``mask.encode``; the same text.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A mask inside of a rectangle; 0 outside.

    Attributes:
        left: first column.
        top: first row.
        columns: ``(w, h)`` bool, column by column.
    """

    left: int
    top: int
    columns: Array


def encode_windows(windows: Sequence[Window], height: int, width: int) -> list[dict[str, Any]]:
    """Encode masks.

    Args:
        windows: one per mask, inside of the image; they may be empty.
        height: H.
        width: W.

    Returns:
        N dictionaries ``{"size": [H, W], "counts": str}``.
    """
    changes, mask = _changes(windows, height)
    size = height * width
    # The runs of a mask lie between 0, its changes, and the end of the image.
    number = np.arange(len(windows))
    runs = np.bincount(mask, minlength=len(windows)) + 1
    starts = np.cumsum(runs) - runs + number
    positions = np.zeros(len(changes) + 2 * len(windows), np.int64)
    positions[np.arange(len(changes)) + 2 * mask + 1] = changes
    positions[starts + runs] = size
    counts = np.diff(positions, prepend=0)
    is_run = np.ones(len(counts), bool)
    is_run[starts] = False
    # An object that ends with the image is followed by no run.
    ended = (runs > 1) & (counts[starts + runs] == 0)
    is_run[starts[ended] + runs[ended]] = False
    texts = _texts(counts[is_run], runs - ended)
    return [{"size": [height, width], "counts": text} for text in texts]


def bitmap_windows(masks: Array) -> list[Window]:
    """Find the rectangle of each mask.

    Args:
        masks: ``(N, H, W)`` bool.
    """
    windows = []
    for mask in masks:
        rows, columns = _extent(mask.any(axis=1)), _extent(mask.any(axis=0))
        part = mask[rows, columns].T
        windows.append(Window(left=columns.start, top=rows.start, columns=part))
    return windows


def _extent(occupied: Array) -> slice:
    """Return the range from the first to the last true entry of a vector; empty without any."""
    where = np.flatnonzero(occupied)
    return slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, 0)


def _changes(windows: Sequence[Window], height: int) -> tuple[Array, Array]:
    """Return where masks change, ``(C,)`` in pixels of the image by column, and which, ``(C,)``."""
    shapes = np.array([w.columns.shape for w in windows], np.int64).reshape(-1, 2)
    corners = np.array([(w.left, w.top) for w in windows], np.int64).reshape(-1, 2)
    # A zero ends every column, unless the next one follows at once, and every window.
    strides = shapes[:, 1] + (shapes[:, 1] < height)
    sizes = shapes[:, 0] * strides + 1
    starts = 1 + np.cumsum(sizes) - sizes
    line = np.zeros(1 + int(sizes.sum()), bool)
    for window, start, stride in zip(windows, starts.tolist(), strides.tolist(), strict=True):
        width, rows = window.columns.shape
        line[start : start + width * stride].reshape(width, stride)[:, :rows] = window.columns
    changes = np.flatnonzero(line[1:] != line[:-1]) + 1
    mask = np.searchsorted(starts, changes, side="right") - 1
    column, row = np.divmod(changes - starts[mask], np.maximum(strides[mask], 1))
    return (corners[mask, 0] + column) * height + corners[mask, 1] + row, mask


def _texts(counts: Array, runs: Array) -> list[str]:
    """Write counts as text.

    Args:
        counts: ``(R,)``, mask after mask.
        runs: ``(N,)`` how many belong to each mask.
    """
    ends = np.cumsum(runs)
    index = np.arange(len(counts)) - np.repeat(ends - runs, runs)
    # From the fourth on, the difference to the last run of the same colour is written.
    rest = counts.copy()
    late = np.flatnonzero(index > 2)
    rest[late] -= counts[late - 2]
    places: list[Array] = []
    used: list[Array] = []
    is_open = np.ones(len(counts), bool)
    while is_open.any():
        digit = rest & 0x1F
        rest >>= 5
        # The highest bit of the last digit is the sign of all.
        more = is_open & (rest != -((digit & 0x10) >> 4))
        places.append((digit + 32 * more + 48).astype(np.uint8))
        used.append(is_open)
        is_open = more
    if not places:
        return [""] * len(runs)
    is_written = np.stack(used, axis=1)
    text = np.stack(places, axis=1)[is_written].tobytes().decode("ascii")
    lengths = np.append(0, np.cumsum(is_written.sum(axis=1)))[np.append(0, ends)].tolist()
    return [text[start:end] for start, end in itertools.pairwise(lengths)]

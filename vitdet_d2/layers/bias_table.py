# SPDX-License-Identifier: Apache-2.0
"""Relative position biases: one number per head and offset, whatever the tokens hold.

The logit of query ``(y, x)`` and key ``(i, j)`` of head ``n`` gains ``table[o, n]``, with
``o = (y - i + h - 1) * (2 * w - 1) + (x - j + w - 1)``.

Vocabulary: a *table* ``((2 * h - 1) * (2 * w - 1), heads)`` is how the numbers are stored, its
*grid* ``(h, w)`` are the tokens that it was made for; *planes* ``(heads, 2 * h - 1, 2 * w - 1)``
are how attention reads it.

Source: BEiT, arXiv 2106.08254; order of the rows and resizing equal those of microsoft/unilm,
beit/modeling_finetune.py and beit/run_class_finetuning.py.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from torch import Tensor

# BEiT's search for the ratio of the progression: its bounds, and how close they must get.
MIN_RATIO, MAX_RATIO = 1.01, 1.5
RATIO_TOLERANCE = 1e-6


def num_offsets(hw: tuple[int, int]) -> int:
    """Return the rows of the table for a grid ``(h, w)``.

    Args:
        hw: in tokens, each >= 1.
    """
    return (2 * hw[0] - 1) * (2 * hw[1] - 1)


def resize_bias_table(table: Tensor, old_hw: tuple[int, int], new_hw: tuple[int, int]) -> Tensor:
    """Resize a bias table to another grid; gradients flow back into the table.

    Near offsets keep their numbers, far ones are stretched: the old offsets are put at distances
    that grow like a geometric series, so that the last one reaches the new grid's last, and a
    cubic spline per head through them is read at the new offsets. Where the series ends earlier,
    the last number holds on; when the grid shrinks, the far end is cut off.

    Each axis is resized on its own, an axis of the same size not at all. On square grids the
    result is BEiT's; its code refuses others. Extra rows, such as BEiT's three for the class
    token, must be removed before.

    Args:
        table: ``((2 * h - 1) * (2 * w - 1), heads)``, also on the meta device.
        old_hw: the grid ``(h, w)`` that it was made for.
        new_hw: the grid that it is wanted for, each side >= 1.

    Returns:
        ``((2 * h' - 1) * (2 * w' - 1), heads)`` of the same type; the table itself if the grid
        stays. Computed in float64.

    Raises:
        ValueError: the table's shape does not fit ``old_hw``, or a side is below 1.
    """
    if tuple(old_hw) == tuple(new_hw):
        _check_rows(table, old_hw)
        return table
    planes = resize_planes(table_to_planes(table, old_hw), new_hw)
    return planes.flatten(1).t().contiguous()


def table_to_planes(table: Tensor, hw: tuple[int, int]) -> Tensor:
    """Return the planes ``(heads, 2 * h - 1, 2 * w - 1)`` of a table.

    Args:
        table: ``((2 * h - 1) * (2 * w - 1), heads)``.
        hw: its grid ``(h, w)``.

    Raises:
        ValueError: its shape does not fit ``hw``.
    """
    _check_rows(table, hw)
    return table.t().unflatten(1, (2 * hw[0] - 1, 2 * hw[1] - 1))


def resize_planes(planes: Tensor, new_hw: tuple[int, int]) -> Tensor:
    """Resize planes as `resize_bias_table` does tables.

    Args:
        planes: ``(heads, 2 * h - 1, 2 * w - 1)``.
        new_hw: the wanted grid ``(h', w')``.

    Returns:
        ``(heads, 2 * h' - 1, 2 * w' - 1)`` of the same type.

    Raises:
        ValueError: a side is below 1.
    """
    if min(new_hw) < 1:
        raise ValueError(f"new_hw: expected sides of at least 1 token, got {new_hw}")
    # In float64, which neither autocast nor TF32 rounds.
    resized = planes.double()
    for axis, side in zip((-2, -1), new_hw, strict=True):
        old_side = (planes.shape[axis] + 1) // 2
        if old_side != side:
            matrix = _matrix_on(old_side, side, planes.device)
            resized = torch.tensordot(resized, matrix, dims=([axis], [1])).movedim(-1, axis)
    return resized.to(planes.dtype)


def _check_rows(table: Tensor, hw: tuple[int, int]) -> None:
    expected = num_offsets(hw)
    if min(hw) < 1 or table.ndim != 2 or table.shape[0] != expected:
        raise ValueError(
            f"table: expected ({expected}, heads) for the grid {hw}, a row for each of the "
            f"(2 * h - 1) * (2 * w - 1) offsets, got {tuple(table.shape)}; the 3 more rows of "
            "BEiT's files, for the class token, must be removed"
        )


# An operator of its own, so that compiled code calls it: numpy cannot be traced.
@torch.library.custom_op("vitdet_d2::resize_matrix", mutates_args=())
def _matrix_on(old_side: int, new_side: int, device: torch.device) -> Tensor:
    # Compiled code may overwrite what an operator returns, never what the cache holds.
    return _cached_matrix(old_side, new_side, device).clone(memory_format=torch.contiguous_format)


@_matrix_on.register_fake
def _(old_side: int, new_side: int, device: torch.device) -> Tensor:
    shape = (2 * new_side - 1, 2 * old_side - 1)
    return torch.empty(shape, dtype=torch.float64, device=device)


@functools.lru_cache(maxsize=64)
def _cached_matrix(old_side: int, new_side: int, device: torch.device) -> Tensor:
    # Under inference mode the cache would keep a tensor that no later training can use.
    with torch.inference_mode(False):
        return torch.as_tensor(resize_matrix(old_side, new_side), device=device)


def resize_matrix(old_side: int, new_side: int) -> np.ndarray:
    """Return the matrix that takes the numbers of one axis to another size.

    Args:
        old_side: tokens along the axis that the numbers were made for, ``n``.
        new_side: wanted tokens, ``m``; another number than ``n``.

    Returns:
        ``(2 * m - 1, 2 * n - 1)`` float64; every row sums to 1.
    """
    old = geometric_offsets(old_side, new_side)
    new = np.arange(1 - new_side, new_side, dtype=np.float64)
    if old_side == 1:
        return np.ones((len(new), 1))
    degree = min(3, len(old) - 1)
    # Not-a-knot: the first two polynomials are one, and the last two.
    inner = old[2:-2] if degree == 3 else old[:0]
    knots = np.concatenate([[old[0]] * (degree + 1), inner, [old[-1]] * (degree + 1)])
    at_old = _basis_splines(old, knots, degree)
    at_new = _basis_splines(new.clip(old[0], old[-1]), knots, degree)
    return np.linalg.solve(at_old.T, at_new.T).T


def geometric_offsets(old_side: int, new_side: int) -> np.ndarray:
    """Return where on the new grid the old offsets come to lie.

    Args:
        old_side: tokens of the old axis, ``n``.
        new_side: tokens of the new axis.

    Returns:
        ``(2 * n - 1,)`` float64, increasing: ``-(1 + q), -1, 0, 1, 1 + q, 1 + q + q^2, ...``, with
        the ratio ``q`` for which the last one is ``new_side - 1``, as far as q may go.
    """
    count = old_side - 1
    low, high = MIN_RATIO, MAX_RATIO
    ratio = low
    while high - low > RATIO_TOLERANCE:
        ratio = (low + high) / 2
        reach = (1 - ratio**count) / (1 - ratio)
        low, high = (low, ratio) if reach > new_side - 1 else (ratio, high)
    positive = list(itertools.accumulate(ratio**i for i in range(count)))
    return np.array([-p for p in reversed(positive)] + [0.0] + positive)


def _basis_splines(at: np.ndarray, knots: np.ndarray, degree: int) -> np.ndarray:
    """Return ``(points, splines)``: every B-spline at every point, by de Boor's recursion."""
    # The last point belongs to the last interval that is not empty.
    interval = np.searchsorted(knots, at, side="right") - 1
    interval = interval.clip(degree, len(knots) - degree - 2)
    values = (np.arange(len(knots) - 1) == interval[:, None]).astype(np.float64)
    for k in range(1, degree + 1):
        count = len(knots) - 1 - k
        span = knots[k:] - knots[:-k]
        # Splines over an empty span are 0, and so is what they hand on.
        inverse = np.divide(1.0, span, out=np.zeros_like(span), where=span > 0)
        rising = (at[:, None] - knots[:count]) * inverse[:count]
        falling = (knots[k + 1 :] - at[:, None]) * inverse[1 : count + 1]
        values = rising * values[:, :count] + falling * values[:, 1 : count + 1]
    return values

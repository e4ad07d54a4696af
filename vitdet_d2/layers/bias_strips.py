# SPDX-License-Identifier: Apache-2.0
"""Relative position biases laid out so that a row of queries reads them without a copy.

The bias of query ``(y, x)`` and key ``(i, j)`` of head ``n`` is ``strips[n, x, H - 1 - y + i, j]``:
for all queries of a row ``y``, and all keys, that is one slice of the third axis. The strips are
``2 * W * N`` numbers per head in place of the ``N x N`` of the whole map, ``N = H * W``, and many
blocks can share them.

Vocabulary: *planes* ``(heads, 2 * H - 1, 2 * W - 1)`` are those of `vitdet_d2.layers.bias_table`;
*strips* are ``(heads, W, 2 * H - 1, W)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vitdet_d2.layers.bias_table import resize_planes, table_to_planes


def table_to_strips(table: Tensor, old_hw: tuple[int, int], new_hw: tuple[int, int]) -> Tensor:
    """Resize a table to a grid, and lay it out as strips.

    Args:
        table: ``((2 * h - 1) * (2 * w - 1), heads)``.
        old_hw: the grid ``(h, w)`` that it was made for.
        new_hw: the grid ``(H, W)`` of the tokens.

    Returns:
        ``(heads, W, 2 * H - 1, W)``, contiguous.

    Raises:
        ValueError: the table's shape does not fit ``old_hw``.
    """
    return planes_to_strips(resize_planes(table_to_planes(table, old_hw), new_hw))


def planes_to_strips(planes: Tensor) -> Tensor:
    """Lay planes out as strips.

    Args:
        planes: ``(heads, 2 * H - 1, 2 * W - 1)``.

    Returns:
        ``(heads, W, 2 * H - 1, W)``, contiguous.
    """
    W = (planes.shape[2] + 1) // 2
    # Key j of query x is column W - 1 - x + j of the reversed planes: overlapping windows of them.
    windows = planes.flip(1, 2).unfold(2, W, 1).flip(2)  # (heads, a, x, j)
    return windows.transpose(1, 2).contiguous()


def grid_of(strips: Tensor) -> tuple[int, int]:
    """Return the token grid ``(H, W)`` of strips."""
    return (strips.shape[2] + 1) // 2, strips.shape[3]


def biases_of_rows(strips: Tensor, first_row: int, last_row: int) -> Tensor:
    """Return the biases of the queries of some rows of the map with every key.

    Args:
        strips: ``(heads, W, 2 * H - 1, W)``.
        first_row: the first row of queries.
        last_row: the row behind the last, at most ``H``.

    Returns:
        ``(heads, (last_row - first_row) * W, H * W)``; a view if it is a single row.
    """
    return _Rows.apply(strips, first_row, last_row)


def add_gradient_of_rows(gradient: Tensor, of_rows: Tensor, first_row: int) -> None:
    """Add the gradient of `biases_of_rows` to that of the strips, in place.

    Args:
        gradient: ``(heads, W, 2 * H - 1, W)``.
        of_rows: ``(heads, rows * W, H * W)``.
        first_row: the first row of queries.
    """
    H, W = grid_of(gradient)
    for number, row in enumerate(of_rows.unflatten(2, (H, W)).split(W, dim=1)):
        start = H - 1 - first_row - number
        gradient[:, :, start : start + H] += row


class _Rows(torch.autograd.Function):
    """`biases_of_rows`; autograd's own way back through windows takes many times as long."""

    @staticmethod
    def forward(ctx: Any, strips: Tensor, first_row: int, last_row: int) -> Tensor:
        ctx.first_row, ctx.shape = first_row, strips.shape
        H, W = grid_of(strips)
        if last_row - first_row == 1:
            start = H - 1 - first_row
            return strips[:, :, start : start + H].flatten(2)
        # (heads, x, y reversed, j, i); the flip is the only copy.
        windows = strips[:, :, H - last_row : 2 * H - 1 - first_row].unfold(2, H, 1).flip(2)
        return windows.permute(0, 2, 1, 4, 3).reshape(len(strips), -1, H * W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor) -> tuple[Tensor, None, None]:
        gradient = of_rows.new_zeros(ctx.shape)
        add_gradient_of_rows(gradient, of_rows, ctx.first_row)
        return gradient, None, None

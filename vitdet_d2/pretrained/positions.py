# SPDX-License-Identifier: Apache-2.0
"""Absolute position embeddings of another grid size.

T: tokens, C: channels, g: side of a square grid of patches.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["bicubic", "bilinear"]


def resize_position_grid(
    positions: Tensor,
    num_prefix: int,
    old_hw: tuple[int, int] | None,
    new_hw: tuple[int, int],
    mode: Interpolation = "bicubic",
) -> Tensor:
    """Resize learned positions to another grid.

    Args:
        positions: ``(1, P + h * w, C)``, row by row; any floating type, also on the meta device.
        num_prefix: P, rows of prefix tokens, which stay in front as they are.
        old_hw: ``(h, w)`` in patches; None: a square.
        new_hw: likewise, of the result.
        mode: how; pyramid transformers do it bilinearly.

    Returns:
        ``(1, P + h' * w', C)`` of the same type; the positions themselves if the grid stays.

    Raises:
        ValueError: the rows are no such grid.

    Source: ViTDet, arXiv 2203.16527, section 3; equals detectron2 ``get_abs_pos``.
    """
    count = positions.shape[1] - num_prefix
    if old_hw is None:
        side = math.isqrt(max(count, 0))
        old_hw = (side, side)
    if count < 1 or old_hw[0] * old_hw[1] != count:
        raise ValueError(
            f"{positions.shape[1]} positions, {num_prefix} of them of prefix tokens, are no grid "
            f"of {old_hw[0]} x {old_hw[1]} patches; give the grid that they were trained on"
        )
    if tuple(old_hw) == tuple(new_hw):
        return positions
    prefix, grid = positions[:, :num_prefix], positions[:, num_prefix:]
    maps = grid.transpose(1, 2).unflatten(2, old_hw)  # (1, C, h, w)
    maps = F.interpolate(maps.float(), size=new_hw, mode=mode, align_corners=False)
    return torch.cat([prefix, maps.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


def fit_positions(
    positions: Tensor,
    num_prefix: int,
    old_hw: tuple[int, int] | None,
    num_tokens: int,
    has_class_position: bool,
    mode: Interpolation = "bicubic",
) -> Tensor:
    """Resize positions to a square grid, with or without a row for a class token before it.

    Args:
        positions: as of `resize_position_grid`.
        num_prefix: likewise.
        old_hw: likewise.
        num_tokens: rows of the result.
        has_class_position: whether one of them is a class token's.
        mode: as of `resize_position_grid`.

    Returns:
        ``(1, num_tokens, C)``. A row for a class token that only the result has is zero.

    Raises:
        ValueError: the rows are no such grid.
    """
    side = math.isqrt(num_tokens - int(has_class_position))
    if old_hw is not None and num_prefix == 0 and positions.shape[1] == math.prod(old_hw) + 1:
        # All rows together were a square, and taken for patches: 1 + 13 * 15 = 14 * 14.
        num_prefix = 1
    positions = resize_position_grid(positions, num_prefix, old_hw, (side, side), mode)
    prefix, grid = positions[:, :num_prefix], positions[:, num_prefix:]
    if not has_class_position:
        return grid
    # Backbones of detection never use this row.
    row = prefix[:, :1] if num_prefix else torch.zeros_like(grid[:, :1])
    return torch.cat([row.to(grid.dtype), grid], dim=1)


def can_resize_positions(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether shapes are those of two position embeddings that differ in their grid alone."""
    return len(found) == len(wanted) == 3 and found[0] == wanted[0] == 1 and found[2] == wanted[2]


def resize_positions(positions: Tensor, num_tokens: int, mode: Interpolation = "bicubic") -> Tensor:
    """Resize learned positions to another number of tokens.

    Args:
        positions: ``(1, T, C)``; T is a square, or a square and one class token in front.
        num_tokens: T of the result, likewise.
        mode: as of `resize_position_grid`.

    Returns:
        ``(1, num_tokens, C)``. A class token that only the result has is zero.

    Raises:
        ValueError: a number of tokens that is neither.

    Source: ViTDet, arXiv 2203.16527, section 3; equals detectron2 ``get_abs_pos`` on the grid.
    """
    old_side, has_class = _grid(positions.shape[1])
    new_side, wants_class = _grid(num_tokens)
    class_token, grid = positions[:, : int(has_class)], positions[:, int(has_class) :]
    grid = resize_position_grid(grid, 0, (old_side, old_side), (new_side, new_side), mode)
    if not wants_class:
        return grid
    if not has_class:
        class_token = torch.zeros_like(grid[:, :1])
    return torch.cat([class_token, grid], dim=1)


def _grid(num_tokens: int) -> tuple[int, bool]:
    """Return the grid's side, and whether there is a class token; it cannot be both.

    Raises:
        ValueError: it is neither.
    """
    for class_tokens in (0, 1):
        side = math.isqrt(max(num_tokens - class_tokens, 0))
        if side > 0 and side * side + class_tokens == num_tokens:
            return side, bool(class_tokens)
    raise ValueError(
        f"{num_tokens} positions are no square grid, with or without a class token; resize them "
        "where the file was made"
    )

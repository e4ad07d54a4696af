# SPDX-License-Identifier: Apache-2.0
"""Absolute position embeddings of another grid size.

T: tokens, C: channels, g: side of a square grid of patches.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(positions: Tensor, num_tokens: int) -> Tensor:
    """Resize learned positions to another number of tokens, bicubically.

    Args:
        positions: ``(1, T, C)``; T is a square, or a square and one class token in front.
        num_tokens: T of the result, likewise.

    Returns:
        ``(1, num_tokens, C)``. A class token that only the result has is zero.

    Raises:
        ValueError: a number of tokens that is neither.

    Source: ViTDet, arXiv 2203.16527, section 3; equals detectron2 ``get_abs_pos`` on the grid.
    """
    old_side, has_class = _grid(positions.shape[1])
    new_side, wants_class = _grid(num_tokens)
    class_token, grid = positions[:, : int(has_class)], positions[:, int(has_class) :]
    if new_side != old_side:
        maps = grid.transpose(1, 2).unflatten(2, (old_side, old_side))  # (1, C, g, g)
        maps = F.interpolate(
            maps.float(), size=(new_side, new_side), mode="bicubic", align_corners=False
        )
        grid = maps.flatten(2).transpose(1, 2).to(positions.dtype)
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

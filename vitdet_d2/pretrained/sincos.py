# SPDX-License-Identifier: Apache-2.0
"""Fixed position embeddings, which tell who trained an encoder where no key does.

Half of the channels encode the column of a patch, half its row; each half is sines, then cosines.
MAE and I-JEPA put the columns first, MoCo v3 the rows, so that each is the other's transpose.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

First = Literal["columns", "rows"]

# Wavelengths grow from 2 pi to 10000 times that, as in the first Transformer.
_LONGEST = 10000.0
# Above the rounding of half precision, far below what training changes.
_TOLERANCE = 2e-3


def fixed_positions(side: int, width: int, first: First) -> Tensor:
    """Compute the embedding of a square grid of patches.

    Args:
        side: of the grid, in patches.
        width: channels, a multiple of 4.
        first: what the first half of the channels encodes.

    Returns:
        ``(1, side * side, width)``, row-major.

    Source: facebookresearch/mae ``util/pos_embed.py``; facebookresearch/moco-v3 ``vits.py``.
    """
    quarter = width // 4
    frequencies = _LONGEST ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = line.repeat_interleave(side, 0), line.repeat(side, 1)
    halves = [columns, rows] if first == "columns" else [rows, columns]
    return torch.cat(halves, dim=1).float()[None]


def is_fixed(
    positions: Tensor, num_prefix: int, first: First, *, resized_from: int | None = None
) -> bool:
    """Whether position embeddings are the fixed ones.

    Args:
        positions: ``(1, num_prefix + side * side, width)``; on the meta device nothing can be told.
        num_prefix: rows before those of the patches, which are zero where they are fixed.
        first: see `fixed_positions`.
        resized_from: side of the grid for which they were computed, if not their own.
    """
    if positions.is_meta or positions.ndim != 3 or positions.shape[2] % 4:
        return False
    prefix, grid = positions[:, :num_prefix].float(), positions[:, num_prefix:].float()
    side = math.isqrt(grid.shape[1])
    # One patch has no place to tell.
    if side < 2 or side * side != grid.shape[1] or (prefix.abs() > _TOLERANCE).any():
        return False
    wanted = fixed_positions(resized_from or side, positions.shape[2], first)
    if resized_from is not None:
        wanted = _resized(wanted, side)
    return bool((grid.cpu() - wanted).abs().amax() < _TOLERANCE)


def _resized(positions: Tensor, side: int) -> Tensor:
    old = math.isqrt(positions.shape[1])
    maps = positions.transpose(1, 2).unflatten(2, (old, old))  # (1, C, g, g)
    maps = F.interpolate(maps, size=(side, side), mode="bicubic", align_corners=False)
    return maps.flatten(2).transpose(1, 2)

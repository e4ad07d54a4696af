# SPDX-License-Identifier: Apache-2.0
"""Absolute position embeddings for any token grid."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def get_abs_pos(
    abs_pos: Tensor,
    has_cls_token: bool,
    hw: tuple[int, int],
    mode: Literal["bicubic", "bilinear"] = "bicubic",
) -> Tensor:
    """Resize learned absolute position embeddings to a new token grid.

    Args:
        abs_pos: ``(1, T, C)``, ``T = g * g`` (+1 with a class token), row-major.
        has_cls_token: whether token 0 is a class token, which is dropped.
        hw: target ``(h, w)`` in tokens, each >= 1.
        mode: how to interpolate; PVT does so bilinearly.

    Returns:
        ``(1, h, w, C)``; the same values when the grid already matches.

    Raises:
        ValueError: the patch tokens do not form a square grid.

    Source: ViTDet, arXiv 2203.16527, section 3; equals detectron2 `get_abs_pos`.
    """
    patches = abs_pos[:, 1:] if has_cls_token else abs_pos
    grid = math.isqrt(patches.shape[1])
    if grid * grid != patches.shape[1]:
        raise ValueError(
            f"abs_pos: expected a square number of patch tokens, got {patches.shape[1]} "
            f"(has_cls_token={has_cls_token}; does the embedding hold a class token?)"
        )
    patches = patches.reshape(1, grid, grid, -1)
    if (grid, grid) == tuple(hw):
        return patches
    resized = F.interpolate(patches.permute(0, 3, 1, 2), size=hw, mode=mode, align_corners=False)
    return resized.permute(0, 2, 3, 1)  # (1, C, h, w) -> (1, h, w, C)

# SPDX-License-Identifier: Apache-2.0
"""Shifted windows: the grid of windows moved by some tokens down and to the right.

At the borders the moved grid leaves smaller windows. To batch them, the map is rolled, so that a
window at the end holds two sets of tokens from opposite borders, which must not see each other.
Whether two tokens are of one set is decided row by row and column by column, hence the mask is a
sum of a term of (query, key row) and one of (query, key column): it joins the decomposed relative
positions, and no ``N x N`` mask is ever built.

Vocabulary: ``w``: side of a window; ``nw``: windows of one image; ``N = w * w`` tokens each.

Source: Swin, arXiv 2103.14030, section 3.2 (cyclic shift and masked attention).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Far below any logit, so that its exponential is exactly 0; two of them still fit into float16.
MASKED = -30000.0


def effective_shift(hw: tuple[int, int], window_size: int, shift: int) -> tuple[int, int]:
    """Return the shift of both axes: none along an axis that a single window spans.

    Args:
        hw: token grid ``(H, W)`` before padding.
        window_size: side of a window, in tokens.
        shift: in tokens, below ``window_size``.
    """
    return (shift if hw[0] > window_size else 0, shift if hw[1] > window_size else 0)


def wrap_terms(
    pad_hw: tuple[int, int], window_size: int, shift_hw: tuple[int, int], like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what keeps the tokens from opposite borders apart, as terms of the logits.

    Args:
        pad_hw: size ``(Hp, Wp)`` of the rolled map, multiples of ``window_size``.
        window_size: side of a window, in tokens.
        shift_hw: how far the map was rolled up and to the left, in tokens.
        like: a tensor of the wanted type and device.

    Returns:
        ``(nw, 1, N, w)`` twice, for key rows and key columns: 0, or `MASKED`.
    """
    rows, columns = (
        _apart(size, window_size, shift, like) for size, shift in zip(pad_hw, shift_hw, strict=True)
    )
    grid = (rows.shape[0], columns.shape[0], 1, window_size, window_size, window_size)
    # (windows of the axis, w, w) -> (rows, columns, 1, query row, query column, key)
    term_h = rows[:, None, None, :, None, :].expand(grid)
    term_w = columns[None, :, None, None, :, :].expand(grid)
    return term_h.flatten(3, 4).flatten(0, 1), term_w.flatten(3, 4).flatten(0, 1)


def _apart(size: int, window_size: int, shift: int, like: Tensor) -> Tensor:
    """Return ``(size / w, w, w)``: `MASKED` for two places in a window from opposite borders."""
    wrapped = torch.arange(size, device=like.device) >= size - shift
    wrapped = wrapped.reshape(-1, window_size)
    return (wrapped[:, :, None] != wrapped[:, None, :]).to(like.dtype) * MASKED

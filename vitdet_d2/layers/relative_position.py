# SPDX-License-Identifier: Apache-2.0
"""Decomposed relative positions: one table for the vertical, one for the horizontal distance.

The logit of query ``(h, w)`` and key ``(i, j)`` gains ``q . Rh[h, i] + q . Rw[w, j]``, with the
unscaled query. Vocabulary: a *table* holds one row per distance, from ``-(n - 1)`` to ``n - 1``.

Source: MViTv2, arXiv 2112.01526, equation 4; ViTDet, arXiv 2203.16527, section 3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def get_rel_pos(size: int, table: Tensor) -> Tensor:
    """Return the embedding of every (query, key) pair along one axis.

    The rows are overlapping slices of the table, so no index tensor is built: on a GPU nothing is
    copied from the host.

    Args:
        size: number of tokens along the axis, ``n``.
        table: ``(L, C)``; resized linearly when ``L != 2 * n - 1``.

    Returns:
        ``(n, n, C)``; entry ``[q, k]`` is the row of distance ``q - k``.

    Source: equals detectron2 `get_rel_pos` for equal query and key sizes.
    """
    num_distances = 2 * size - 1
    if table.shape[0] != num_distances:
        table = F.interpolate(table.t()[None], size=num_distances, mode="linear")[0].t()
    slices = table.flip(0).unfold(0, size, 1)  # (n, C, n); slice s starts at distance n - 1 - s
    return slices.flip(0).transpose(1, 2)


def get_pooled_rel_pos(q_size: int, k_size: int, table: Tensor) -> Tensor:
    """Return the embedding of every pair along one axis, where queries or keys are pooled.

    Distances are counted on the finer of the two grids; where one is no multiple of the other, they
    are rounded towards zero.

    Args:
        q_size: number of queries along the axis.
        k_size: number of keys along the axis.
        table: ``(L, C)``; resized linearly when ``L != 2 * max(q_size, k_size) - 1``.

    Returns:
        ``(q_size, k_size, C)``.

    Source: equals detectron2 `get_rel_pos`.
    """
    if q_size == k_size:
        return get_rel_pos(q_size, table)
    num_distances = 2 * max(q_size, k_size) - 1
    if table.shape[0] != num_distances:
        table = F.interpolate(table.t()[None], size=num_distances, mode="linear")[0].t()
    q_step, k_step = max(k_size / q_size, 1.0), max(q_size / k_size, 1.0)
    queries = torch.arange(q_size, device=table.device)[:, None] * q_step
    keys = torch.arange(k_size, device=table.device)[None, :] * k_step
    return table[(queries - keys + (k_size - 1) * k_step).long()]


def pooled_terms(
    q: Tensor,
    table_h: Tensor,
    table_w: Tensor,
    q_hw: tuple[int, int],
    k_hw: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Return what relative positions add to the logits of pooled queries or keys.

    Args:
        q: unscaled queries ``(B, heads, H * W, C)``.
        table_h: ``(Lh, C)``.
        table_w: ``(Lw, C)``.
        q_hw: token grid ``(H, W)`` of the queries.
        k_hw: token grid ``(h, w)`` of the keys.

    Returns:
        ``(B, heads, H * W, h)`` and ``(B, heads, H * W, w)``, as `decomposed_terms`.
    """
    grid = q.unflatten(2, q_hw)
    embed_h = get_pooled_rel_pos(q_hw[0], k_hw[0], table_h)
    embed_w = get_pooled_rel_pos(q_hw[1], k_hw[1], table_w)
    rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, embed_h)
    rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, embed_w)
    return rel_h.flatten(2, 3), rel_w.flatten(2, 3)


def decomposed_terms(
    q: Tensor, table_h: Tensor, table_w: Tensor, hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return what relative positions add to the logits, before it is spread over the key grid.

    Args:
        q: unscaled queries ``(B, heads, H * W, C)``.
        table_h: ``(Lh, C)``.
        table_w: ``(Lw, C)``.
        hw: token grid ``(H, W)`` of queries and keys.

    Returns:
        ``(B, heads, H * W, H)`` and ``(B, heads, H * W, W)``: the term of each query with each key
        row, and with each key column.
    """
    return pooled_terms(q, table_h, table_w, hw, hw)


def spread_over_keys(rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """Return the additive bias ``(..., N, H * W)`` of terms ``(..., N, H)`` and ``(..., N, W)``.

    This is the ``N x H * W`` tensor that fast paths avoid.
    """
    return (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)

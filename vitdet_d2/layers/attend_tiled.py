# SPDX-License-Identifier: Apache-2.0
"""Softmax attention with decomposed relative positions on the CPU, by plain products of matrices.

Long sequences: one head and a few queries at a time, product with all keys, sums, softmax, product
with the values, so that a tile of logits is written and read in the cache. Short ones, as of
windows: all heads of a few samples at once, the terms as columns of queries and keys, which is no
loss where a product of so few columns waits for the memory. For inference: nothing is kept.

Why not SDPA: its kernel for the CPU multiplies small tiles through MKL, in bfloat16 at a third of
the speed of the processor, and reads its mask from memory. Measured on a Zen 4 (two cores, 12 heads
of 64), ms, SDPA with masks in chunks / this: 4096 tokens, float32 640 / 400, bfloat16 620 / 260; 25
windows of 196 tokens, bfloat16 49 / 24, float32 46 / 73.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitdet_d2.layers import onednn

Terms = tuple[Tensor, Tensor]

# Numbers of one tile of logits: 2 MB in float32. Measured at 4096 tokens, ms: 2^19 391, 2^20 458,
# 2^21 394 in float32, 262, 273, 259 in bfloat16.
TILE_ELEMENTS = 1 << 19

# Longest sequence of which all heads are computed at once.
SHORT_TOKENS = 512

# Numbers of the logits of short sequences at a time: 8 MB in bfloat16.
SHORT_ELEMENTS = 1 << 22


def attend_tiled(q: Tensor, k: Tensor, v: Tensor, terms: Terms, scale: float) -> Tensor:
    """Attend with terms of relative positions or of a mask; without a backward pass.

    Args:
        q: unscaled queries ``(B, heads, N, C)``.
        k: keys, of the same shape.
        v: values, of the same shape.
        terms: ``(B, heads, N, H)`` and ``(B, heads, N, W)``; or of one head for all.
        scale: factor of ``q k^T``.

    Returns:
        ``(B, heads, N, C)``, in memory ``(B, N, heads, C)``.
    """
    B, heads, N, C = q.shape
    out = q.new_empty(B, N, heads, C)
    if N > SHORT_TOKENS:
        for sample in range(B):
            for head in range(heads):
                one = (sample, head)
                rel_h, rel_w = (term.expand(-1, heads, -1, -1)[one] for term in terms)
                _attend_long(q[one], k[one], v[one], rel_h, rel_w, scale, out[sample, :, head])
    else:
        samples = max(1, SHORT_ELEMENTS // (heads * N * N))
        for start in range(0, B, samples):
            some = slice(start, start + samples)
            rel_h, rel_w = (term[some].expand(-1, heads, -1, -1) for term in terms)
            _attend_short(q[some], k[some], v[some], rel_h, rel_w, scale, out[some].transpose(1, 2))
    return out.transpose(1, 2)


def _attend_long(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float, out: Tensor
) -> None:
    """Write the attention of one head, ``(N, C)`` each, into ``out``."""
    N = len(q)
    rows = max(1, TILE_ELEMENTS // N)
    key, value = k.contiguous(), v.t().contiguous()
    fused = onednn.usable(q[:rows], key)
    if fused:
        key, value = onednn.packed(key, rows), onednn.packed(value, rows)
    for start in range(0, N, rows):
        part = slice(start, start + rows)
        query = q[part] * scale
        logits = onednn.product(query, key) if fused else query @ key.t()
        by_grid = logits.unflatten(-1, (rel_h.shape[-1], rel_w.shape[-1]))
        by_grid += rel_h[part, :, None]
        by_grid += rel_w[part, None, :]
        torch.softmax(logits, -1, out=logits)
        out[part] = onednn.product(logits, value) if fused else logits @ value.t()


def _attend_short(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float, out: Tensor
) -> None:
    """Write the attention of all heads of some samples, ``(b, heads, N, C)``, into ``out``."""
    query = torch.cat([q * scale, rel_h.to(q.dtype), rel_w.to(q.dtype)], -1).flatten(0, 1)
    columns = key_columns((rel_h.shape[-1], rel_w.shape[-1]), k)
    key = torch.cat([k, columns.expand(*k.shape[:2], -1, -1)], -1).flatten(0, 1)
    logits = torch.bmm(query, key.transpose(1, 2))
    torch.softmax(logits, -1, out=logits)
    out.copy_(torch.bmm(logits, v.flatten(0, 1)).unflatten(0, q.shape[:2]))


def key_columns(hw: tuple[int, int], like: Tensor) -> Tensor:
    """Return ``(H * W, H + W)``: the one-hot row and column number of every key.

    Args:
        hw: token grid ``(H, W)`` of the keys.
        like: gives type and device.
    """
    H, W = hw
    rows = torch.eye(H, dtype=like.dtype, device=like.device)[:, None, :].expand(H, W, H)
    columns = torch.eye(W, dtype=like.dtype, device=like.device)[None, :, :].expand(H, W, W)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)

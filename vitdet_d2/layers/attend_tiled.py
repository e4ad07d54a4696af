# SPDX-License-Identifier: Apache-2.0
"""Softmax attention with decomposed relative positions on the CPU, in tiles of the ``N x N`` map.

One head and a few queries at a time: product with all keys, softmax, product with the values, so
that a tile of logits is written and read in the cache. For inference: nothing is kept.

Why not SDPA: its kernel for the CPU multiplies small tiles through MKL, in bfloat16 at a third of
the speed of the processor, and reads its mask from memory. Measured on a Zen 4 (two cores, 4096
tokens, 12 heads of 64), ms, SDPA in chunks / tiles: float32 640 / 390, bfloat16 620 / 280.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitdet_d2.layers import onednn

Terms = tuple[Tensor, Tensor]

# Numbers of one tile of logits: 4 MB in float32. Measured, ms: 2^19 425, 2^20 390, 2^21 400, 2^22
# 440.
TILE_ELEMENTS = 1 << 20


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
    rows = max(1, TILE_ELEMENTS // N)
    fused = onednn.usable(q[0, 0, :rows], k[0, 0])
    for sample in range(B):
        for head in range(heads):
            key, value = k[sample, head].contiguous(), v[sample, head].t().contiguous()
            if fused:
                key, value = onednn.packed(key, rows), onednn.packed(value, rows)
            of_head = [term[sample, head if term.shape[1] > 1 else 0] for term in terms]
            for start in range(0, N, rows):
                part = slice(start, start + rows)
                rel_h, rel_w = (term[part] for term in of_head)
                bias = (rel_h[:, :, None] + rel_w[:, None, :]).flatten(1).to(q.dtype)
                query = q[sample, head, part] * scale
                out[sample, part, head] = (_with_onednn if fused else _with_torch)(
                    query, key, value, bias
                )
    return out.transpose(1, 2)


def _with_onednn(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend with a packed key ``(N, C)`` and a packed value ``(C, N)``."""
    weights = onednn.product(query, key, bias)
    torch.softmax(weights, -1, out=weights)
    return onednn.product(weights, value)


def _with_torch(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attend with a key ``(N, C)`` and a value ``(C, N)``; ``bias`` is overwritten."""
    weights = torch.addmm(bias, query, key.t(), out=bias)
    torch.softmax(weights, -1, out=weights)
    return weights @ value.t()

# SPDX-License-Identifier: Apache-2.0
"""Blocks of our ViT with prefix tokens, written out: biases and rotations are of maps alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def full_bias(table: Tensor, side: int) -> Tensor:
    """Return the bias ``(heads, 1 + N, 1 + N)`` of a table, class token first, pair by pair."""
    tokens = side * side
    bias = torch.empty(table.shape[1], 1 + tokens, 1 + tokens)
    bias[:, 0] = table[-3, :, None]
    bias[:, :, 0] = table[-2, :, None]
    bias[:, 0, 0] = table[-1]
    for query in range(tokens):
        for key in range(tokens):
            rows = query // side - key // side + side - 1
            columns = query % side - key % side + side - 1
            bias[:, 1 + query, 1 + key] = table[rows * (2 * side - 1) + columns]
    return bias


def run_block(
    block: nn.Module, x: Tensor, bias: Tensor | None, angles: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Compute a block on tokens in one row.

    Args:
        block: of our ViT.
        x: ``(1, 1, P + N, C)``.
        bias: ``(heads, P + N, P + N)``, added to the logits; None: there is none.
        angles: cosines and sines ``(N, C / heads)`` by which the last N queries and keys are
            rotated, in halves; None: they are not.
    """
    attn, tokens = block.attn, x.shape[2]
    qkv = attn.qkv(block.norm1(x)).reshape(tokens, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(1, 2, 0, 3)  # each (heads, P + N, C / heads)
    if angles is not None:
        q, k = _rotated(q, *angles), _rotated(k, *angles)
    logits = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias
    out = (logits.softmax(-1) @ v).transpose(0, 1).reshape(x.shape)
    x = x + block.ls1(attn.proj(out))
    return x + block.ls2(block.mlp(block.norm2(x)))


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    prefix, patches = x.split([x.shape[1] - len(cosines), len(cosines)], dim=1)
    first, second = patches.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return torch.cat([prefix, patches * cosines + turned * sines], dim=1)

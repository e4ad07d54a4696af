# SPDX-License-Identifier: Apache-2.0
"""PVT v1 written from the paper with loops over patches' pixels, heads and rows of a map.

Uses nothing of the package: weights by name, and elementary operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def slow_pvt(
    weights: Weights,
    x: Tensor,
    *,
    depths: Sequence[int],
    num_heads: Sequence[int],
    sr_ratios: Sequence[int],
) -> dict[str, Tensor]:
    """Return the maps ``res2`` to ``res5``, each ``(C, h, w)``, of one image ``(C, H, W)``."""
    maps = {}
    x = x.permute(1, 2, 0)  # (H, W, C)
    for stage in range(1, 5):
        embed = f"patch_embed{stage}"
        x = norm(weights, f"{embed}.norm", patches(weights, f"{embed}.proj", x), 1e-5)
        table = weights[f"pos_embed{stage}"][0, int(stage == 4) :]
        side = math.isqrt(len(table))
        x = x + resize(table.reshape(side, side, -1), x.shape[0], x.shape[1])
        for i in range(depths[stage - 1]):
            name = f"block{stage}.{i}"
            inner = norm(weights, f"{name}.norm1", x, 1e-6)
            heads, ratio = num_heads[stage - 1], sr_ratios[stage - 1]
            x = x + attention(weights, f"{name}.attn", inner, heads, ratio)
            inner = norm(weights, f"{name}.norm2", x, 1e-6)
            hidden = linear(weights, f"{name}.mlp.fc1", inner)
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + linear(weights, f"{name}.mlp.fc2", hidden)
        maps[f"res{stage + 1}"] = x.permute(2, 0, 1)
    return maps


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def patches(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Map each whole patch linearly; rows and columns that fill none are left out."""
    kernel = weights[f"{name}.weight"]
    size = kernel.shape[-1]
    h, w = x.shape[0] // size, x.shape[1] // size
    out = weights[f"{name}.bias"].expand(h, w, -1)
    for i in range(size):
        for j in range(size):
            out = out + x[i : h * size : size, j : w * size : size] @ kernel[:, :, i, j].T
    return out


def resize(table: Tensor, h: int, w: int) -> Tensor:
    """Resize ``(g, g, C)`` bilinearly: along each axis a weighted mean of two neighbours."""
    for axis, n in ((0, h), (1, w)):
        g = table.shape[axis]
        lines = []
        for i in range(n):
            at = max((i + 0.5) * g / n - 0.5, 0.0)
            low = int(at)
            high = min(low + 1, g - 1)
            lines.append(
                (low + 1 - at) * table.select(axis, low) + (at - low) * table.select(axis, high)
            )
        table = torch.stack(lines, axis)
    return table


def attention(weights: Weights, name: str, x: Tensor, heads: int, ratio: int) -> Tensor:
    source = x
    if ratio > 1:
        source = norm(weights, f"{name}.norm", patches(weights, f"{name}.sr", x), 1e-5)
    q = linear(weights, f"{name}.q", x)
    k, v = linear(weights, f"{name}.kv", source).flatten(0, 1).chunk(2, dim=-1)
    size = x.shape[-1] // heads
    rows = []
    for row in q:
        parts = []
        for head in range(heads):
            of_head = slice(head * size, (head + 1) * size)
            logits = row[:, of_head] @ k[:, of_head].T / math.sqrt(size)
            powers = (logits - logits.max()).exp()
            parts.append(powers / powers.sum(1, keepdim=True) @ v[:, of_head])
        rows.append(torch.cat(parts, dim=-1))
    return linear(weights, f"{name}.proj", torch.stack(rows))

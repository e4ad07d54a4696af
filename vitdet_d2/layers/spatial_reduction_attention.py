# SPDX-License-Identifier: Apache-2.0
"""Self-attention whose keys and values come from a smaller map (SRA).

Every token asks, but only the tokens of a reduced map answer: with ``N = H * W`` tokens and ``M``
of them left, attention costs ``N * M`` and not ``N * N``.

Shapes: maps ``(B, H, W, C)``; per head, queries ``(B, heads, N, C / heads)``, keys and values
``(B, heads, M, C / heads)``.

Source: PVT, arXiv 2102.12122, section 3.3; linear: PVT v2, arXiv 2106.13797, section 3.2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# Of the norm after the reduction, in the released models of PVT v1, v2 and MiT alike.
REDUCTION_EPS = 1e-5
# Side of the map that linear attention pools to, in tokens.
POOLED_SIDE = 7


class SpatialReductionAttention(nn.Module):
    """Attention to a map that a strided convolution made smaller.

    Parameters: ``q``, ``kv``, ``proj`` and, where the map is reduced, ``sr`` and ``norm``.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, sr_ratio: int = 1) -> None:
        """Build the projections and the reduction.

        Args:
            dim: channels of a token, a multiple of ``num_heads``.
            num_heads: number of heads.
            qkv_bias: whether query, key and value have a bias.
            sr_ratio: how many times smaller the map of keys and values is, per side; 1: plain
                attention.

        Raises:
            ValueError: ``dim`` does not divide, or the ratio is not positive.
        """
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim: expected a multiple of num_heads={num_heads}, got {dim}")
        if sr_ratio < 1:
            raise ValueError(f"sr_ratio: expected at least 1, got {sr_ratio}")
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self._add_reduction(dim)

    def _add_reduction(self, dim: int) -> None:
        if self.sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, kernel_size=self.sr_ratio, stride=self.sr_ratio)
            self.norm = nn.LayerNorm(dim, eps=REDUCTION_EPS)

    def reduce(self, x: Tensor) -> Tensor:
        """Return the map ``(B, h, w, C)`` that keys and values are made of.

        Args:
            x: the map ``(B, H, W, C)``; rows and columns beyond a multiple of the ratio are not
                seen by the reduction.

        Raises:
            ValueError: the map is smaller than one step of the reduction.
        """
        if self.sr_ratio == 1:
            return x
        _, H, W, _ = x.shape
        if min(H, W) < self.sr_ratio:
            raise ValueError(
                f"spatial reduction: expected a map of at least {self.sr_ratio} x {self.sr_ratio} "
                f"tokens for sr_ratio={self.sr_ratio}, got {H} x {W}; give larger images, or pad "
                "them to a multiple of 32 pixels"
            )
        reduced = self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(reduced)

    def forward(self, x: Tensor) -> Tensor:
        """Map a token map ``(B, H, W, C)`` to the same shape."""
        q = self._heads(self.q(x))
        k, v = (self._heads(half) for half in self.kv(self.reduce(x)).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor) -> Tensor:
        """Return ``(B, h, w, C)`` as ``(B, heads, h * w, C / heads)``."""
        return x.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class LinearSpatialReductionAttention(SpatialReductionAttention):
    """Attention to a map of fixed size, so that the cost grows linearly with the image.

    Parameters: ``q``, ``kv``, ``proj``, ``sr`` and ``norm``.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        """Build the projections and the reduction.

        Args:
            dim: channels of a token, a multiple of ``num_heads``.
            num_heads: number of heads.
            qkv_bias: whether query, key and value have a bias.

        Raises:
            ValueError: ``dim`` does not divide.
        """
        super().__init__(dim, num_heads, qkv_bias)

    def _add_reduction(self, dim: int) -> None:
        self.pool = nn.AdaptiveAvgPool2d(POOLED_SIDE)
        self.sr = nn.Conv2d(dim, dim, kernel_size=1)
        self.norm = nn.LayerNorm(dim, eps=REDUCTION_EPS)
        self.act = nn.GELU()

    def reduce(self, x: Tensor) -> Tensor:
        """Return the pooled map ``(B, 7, 7, C)`` that keys and values are made of.

        Args:
            x: the map ``(B, H, W, C)``; a side below 7 tokens repeats some of them.
        """
        pooled = self.sr(self.pool(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        return self.act(self.norm(pooled))

# SPDX-License-Identifier: Apache-2.0
"""One pre-norm transformer block of a pyramid: attention and a perceptron, each with a skip.

Source: PVT, arXiv 2102.12122, figure 3.
"""

from __future__ import annotations

from torch import Tensor, nn

from vitdet_d2.layers.drop_path import DropPath

# In the released models of PVT v1, v2 and MiT alike.
BLOCK_EPS = 1e-6


class PyramidBlock(nn.Module):
    """Attention and perceptron; parameters ``norm1``, ``attn``, ``norm2`` and ``mlp``."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float = 0.0) -> None:
        """Join the parts.

        Args:
            dim: channels of a token.
            attn: maps ``(B, H, W, dim)`` to the same shape.
            mlp: likewise.
            drop_path: probability that a sample leaves a branch out in training.
        """
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.attn = attn
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        """Map a token map ``(B, H, W, dim)`` to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

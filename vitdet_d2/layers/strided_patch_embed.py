# SPDX-License-Identifier: Apache-2.0
"""The step into a stage of a pyramid: a strided convolution and a norm of its tokens.

Source: PVT, arXiv 2102.12122, section 3.2 (patches side by side); PVT v2, arXiv 2106.13797,
section 3.3 (overlapping patches).
"""

from __future__ import annotations

from torch import Tensor, nn

# In the released models of PVT v1, v2 and MiT alike; their other norms have 1e-6.
EMBED_EPS = 1e-5


class StridedPatchEmbed(nn.Module):
    """Make each patch of a map a token; parameters ``proj`` and ``norm``."""

    def __init__(
        self, in_chans: int, embed_dim: int, kernel_size: int, stride: int, padding: int = 0
    ) -> None:
        """Build the convolution and the norm.

        Args:
            in_chans: channels of the image, or of the map of the stage before.
            embed_dim: channels of a token.
            kernel_size: side of a patch.
            stride: distance between patches; below ``kernel_size`` they overlap.
            padding: zeros around the map.
        """
        super().__init__()
        self.proj = nn.Conv2d(
            in_chans, embed_dim, kernel_size=kernel_size, stride=stride, padding=padding
        )
        self.norm = nn.LayerNorm(embed_dim, eps=EMBED_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_chans, H, W)`` to tokens ``(B, h, w, embed_dim)``."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))

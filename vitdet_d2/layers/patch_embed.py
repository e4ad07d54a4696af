# SPDX-License-Identifier: Apache-2.0
"""Image to patch tokens.

Source: arXiv 2010.11929, equation 1; equals `PatchEmbed` in detectron2/modeling/backbone/utils.py.
"""

from __future__ import annotations

from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Embed each patch by one linear map, written as a convolution; parameter ``proj``."""

    def __init__(
        self,
        kernel_size: tuple[int, int] = (16, 16),
        stride: tuple[int, int] = (16, 16),
        padding: tuple[int, int] = (0, 0),
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        """Build the projection.

        Args:
            kernel_size: patch height and width, in pixels.
            stride: distance between patches, in pixels.
            padding: zeros around the image, in pixels.
            in_chans: channels of the image.
            embed_dim: channels of a token.
        """
        super().__init__()
        self.proj = nn.Conv2d(
            in_chans, embed_dim, kernel_size=kernel_size, stride=stride, padding=padding
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(B, in_chans, H, W)`` to tokens ``(B, h, w, embed_dim)``."""
        return self.proj(x).permute(0, 2, 3, 1)  # (B, C, h, w) -> (B, h, w, C)

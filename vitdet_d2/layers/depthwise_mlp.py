# SPDX-License-Identifier: Apache-2.0
"""The perceptron of PVT v2 and MiT: a depth-wise convolution between its layers.

Zeros around the map tell the convolution where the border is; with it, no position embedding is
needed.

Source: PVT v2, arXiv 2106.13797, section 3.4; SegFormer, arXiv 2105.15203, section 3.1 (Mix-FFN).
"""

from __future__ import annotations

from torch import Tensor, nn


class DepthwiseConv(nn.Module):
    """A 3 x 3 convolution of every channel by itself; parameter ``dwconv``."""

    def __init__(self, channels: int) -> None:
        """Build the convolution.

        Args:
            channels: of the map.
        """
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, channels)`` to the same shape."""
        return self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DepthwiseMlp(nn.Module):
    """Linear, depth-wise convolution, GELU, linear; parameters ``fc1``, ``dwconv``, ``fc2``."""

    def __init__(self, in_features: int, hidden_features: int, relu: bool = False) -> None:
        """Build the layers.

        Args:
            in_features: width of the input and of the output.
            hidden_features: width between the linear layers.
            relu: whether a ReLU stands before the convolution, too (PVT v2 with linear attention).
        """
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.dwconv = DepthwiseConv(hidden_features)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map a token map ``(B, H, W, in_features)`` to the same shape."""
        return self.fc2(self.act(self.dwconv(self.relu(self.fc1(x)))))

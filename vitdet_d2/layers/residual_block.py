# SPDX-License-Identifier: Apache-2.0
"""Convolutional residual block that carries information across windows.

Source: ViTDet, arXiv 2203.16527, section 3 and table 1; equals `ResBottleneckBlock` in
detectron2/modeling/backbone/vit.py.
"""

from __future__ import annotations

from collections.abc import Callable

from detectron2.layers import Conv2d
from torch import Tensor, nn

from vitdet_d2.layers.norm import channel_norm


class ResBottleneckBlock(nn.Module):
    """``x + norm3(conv3(...))`` with 1x1, 3x3 and 1x1 convolutions.

    The last norm starts at zero, so that a new block changes no function. The norms are the
    runtime's channel norms, no `nn.LayerNorm`: a ViT-wide initialisation leaves that zero alone.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bottleneck_channels: int,
        norm: str | Callable[[int], nn.Module] = "LN",
        act_layer: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        """Build the three convolutions.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output, equal to ``in_channels``.
            bottleneck_channels: channels of the 3x3 convolution.
            norm: norm after each convolution, as `detectron2.layers.get_norm` takes it.
            act_layer: makes the activation after the first two norms.
        """
        super().__init__()
        self.conv1 = Conv2d(in_channels, bottleneck_channels, 1, bias=False)
        self.norm1 = channel_norm(norm, bottleneck_channels)
        self.act1 = act_layer()
        self.conv2 = Conv2d(bottleneck_channels, bottleneck_channels, 3, padding=1, bias=False)
        self.norm2 = channel_norm(norm, bottleneck_channels)
        self.act2 = act_layer()
        self.conv3 = Conv2d(bottleneck_channels, out_channels, 1, bias=False)
        self.norm3 = channel_norm(norm, out_channels)
        for conv in (self.conv1, self.conv2, self.conv3):
            # Scaled by the outputs, as fvcore's `c2_msra_fill`, whose package scripts at import.
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        for layer, value in ((self.norm1, 1.0), (self.norm2, 1.0), (self.norm3, 0.0)):
            nn.init.constant_(layer.get_parameter("weight"), value)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.act2(self.norm2(self.conv2(out)))
        return x + self.norm3(self.conv3(out))

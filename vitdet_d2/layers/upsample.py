# SPDX-License-Identifier: Apache-2.0
"""A deconvolution whose kernel is its stride: one linear map of every position, rearranged.

No two kernels overlap, so that nothing is added up: the general algorithm is not needed, and the
result is channels-last for the norms and convolutions behind it.
"""

from __future__ import annotations

from torch import Tensor, nn

from vitdet_d2.layers.linear import linear


class Upsample2x(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d(..., kernel_size=2, stride=2)``, of the same names and numbers."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Build the deconvolution.

        Args:
            in_channels: channels of the map.
            out_channels: channels of the result.
        """
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map ``(N, C, H, W)`` to ``(N, out_channels, 2 * H, 2 * W)``, channels-last.

        Args:
            input: the map.
            output_size: none other is possible.

        Raises:
            ValueError: another size is asked for.
        """
        N, _, H, W = input.shape
        if output_size is not None and list(output_size[-2:]) != [2 * H, 2 * W]:
            raise ValueError(f"output_size: expected {[2 * H, 2 * W]}, got {output_size}")
        channels = self.out_channels
        # (C, out, 2, 2) -> (2 * 2 * out, C)
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        bias = None if self.bias is None else self.bias.repeat(4)
        x = linear(input.permute(0, 2, 3, 1), weight, bias)
        x = x.reshape(N, H, W, 2, 2, channels).transpose(2, 3)  # (N, H, 2, W, 2, out)
        return x.reshape(N, 2 * H, 2 * W, channels).permute(0, 3, 1, 2)

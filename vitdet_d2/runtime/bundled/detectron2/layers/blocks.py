# SPDX-License-Identifier: Apache-2.0
"""Base class of convolutional blocks.

Source: the behaviour of detectron2 ``layers/blocks.py``.
"""

from __future__ import annotations

from detectron2.layers.batch_norm import FrozenBatchNorm2d
from torch import nn


class CNNBlockBase(nn.Module):
    """A block from ``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """Record what the block promises; subclasses build the layers.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            stride: ratio of the input's size to the output's.
        """
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> CNNBlockBase:
        """Stop training: no parameter gets a gradient, batch norms keep their statistics.

        Returns:
            The block itself.
        """
        self.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self

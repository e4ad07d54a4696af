# SPDX-License-Identifier: Apache-2.0
"""Convolutional residual blocks that carry information across windows.

Kinds: *naive*, one 3x3 convolution; *basic*, two; *bottleneck*, 1x1, 3x3 of half the width, 1x1.

Source: ViTDet, arXiv 2203.16527, section 3 and table 2 (b); the bottleneck equals
`ResBottleneckBlock` in detectron2/modeling/backbone/vit.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from detectron2.layers import Conv2d
from torch import Tensor, nn

from vitdet_d2.layers.norm import channel_norm

ConvBlockKind = Literal["naive", "basic", "bottleneck"]


class ResidualConvBlock(nn.Module):
    """``x + norm(conv(...))``: convolutions, each with a norm, and activations between them.

    Submodules: ``conv1``, ``norm1``, ``act1``, ``conv2``, ... without an activation at the end.
    The last norm starts at zero, so that a new block changes no function. The norms are the
    runtime's channel norms, no `nn.LayerNorm`: a ViT-wide initialisation leaves that zero alone.
    """

    def __init__(
        self,
        widths: Sequence[int],
        kernel_sizes: Sequence[int],
        norm: str | Callable[[int], nn.Module] = "LN",
        act_layer: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        """Build the convolutions.

        Args:
            widths: channels of the input and after each convolution; the first is the last.
            kernel_sizes: side of each convolution, odd.
            norm: norm after each convolution, as `detectron2.layers.get_norm` takes it.
            act_layer: makes the activation after every norm but the last.

        Raises:
            ValueError: the output cannot be added to the input, or the norm has no weight to train.
        """
        super().__init__()
        if widths[0] != widths[-1]:
            raise ValueError(
                f"widths: expected as many channels at the end as at the start, got {list(widths)}"
            )
        self.num_convs = len(kernel_sizes)
        for i, ((width_in, width_out), kernel_size) in enumerate(
            zip(pairwise(widths), kernel_sizes, strict=True), start=1
        ):
            conv = Conv2d(width_in, width_out, kernel_size, padding=kernel_size // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"norm{i}", _trainable_norm(norm, width_out))
            if i < self.num_convs:
                self.add_module(f"act{i}", act_layer())
        for i in range(1, self.num_convs + 1):
            # Scaled by the outputs, as fvcore's `c2_msra_fill`, whose package scripts at import.
            nn.init.kaiming_normal_(
                self.get_parameter(f"conv{i}.weight"), mode="fan_out", nonlinearity="relu"
            )
            nn.init.constant_(self.get_parameter(f"norm{i}.weight"), float(i < self.num_convs))
            nn.init.zeros_(self.get_parameter(f"norm{i}.bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape and type."""
        out = x
        for layer in self._modules.values():
            assert layer is not None, "every submodule is a layer"
            out = layer(out)
        # Under autocast the norm gives float32, which would change the type of all that follows.
        return x + out.to(x.dtype)


def _trainable_norm(norm: str | Callable[[int], nn.Module], channels: int) -> nn.Module:
    """Return a channel norm whose weight can start at zero, and leave it.

    Raises:
        ValueError: it has no such weight.
    """
    module = channel_norm(norm, channels)
    if not isinstance(getattr(module, "weight", None), nn.Parameter):
        raise ValueError(
            f"norm: expected one with a weight to train, such as 'LN', got {norm!r}; the block "
            "would stay the identity, or not start as it"
        )
    return module


class ResBottleneckBlock(ResidualConvBlock):
    """The bottleneck, with Detectron2's name and arguments."""

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
        widths = (in_channels, bottleneck_channels, bottleneck_channels, out_channels)
        super().__init__(widths, (1, 3, 1), norm, act_layer)


def make_conv_block(
    kind: ConvBlockKind, dim: int, act_layer: Callable[[], nn.Module] = nn.GELU
) -> ResidualConvBlock:
    """Build a residual block of a kind.

    Args:
        kind: see the top of the module.
        dim: channels of input and output.
        act_layer: makes the activations.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind == "naive":
        return ResidualConvBlock((dim, dim), (3,), act_layer=act_layer)
    if kind == "basic":
        return ResidualConvBlock((dim, dim, dim), (3, 3), act_layer=act_layer)
    if kind == "bottleneck":
        return ResBottleneckBlock(dim, dim, dim // 2, act_layer=act_layer)
    raise ValueError(f"kind: expected naive, basic or bottleneck, got {kind!r}")

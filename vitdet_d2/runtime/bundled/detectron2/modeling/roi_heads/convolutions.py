# SPDX-License-Identifier: Apache-2.0
"""The 3x3 convolutions that box heads and mask heads begin with."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import Conv2d, get_norm
from torch import nn

__all__ = ["add_convolutions"]


def add_convolutions(
    head: nn.Module, prefix: str, channels: int, dims: Sequence[int], norm: str
) -> list[Conv2d]:
    """Add convolutions with normalisation and ReLU to a head, one after the other.

    Args:
        head: gets the modules ``<prefix><i>``, from 1.
        prefix: of their names.
        channels: of the input.
        dims: output channels of each.
        norm: normalisation after each, see ``get_norm``; "" for none.

    Returns:
        The convolutions.
    """
    added = []
    for i, dim in enumerate(dims, start=1):
        conv = Conv2d(
            channels,
            dim,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, dim),
            activation=nn.ReLU(),
        )
        head.add_module(f"{prefix}{i}", conv)
        added.append(conv)
        channels = dim
    return added

# SPDX-License-Identifier: Apache-2.0
"""Norms of tokens and of feature maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from detectron2.layers import get_norm
from torch import nn

from vitdet_d2.layers.channel_norm import ChannelLayerNorm


def layer_norm(eps: float) -> Callable[[int], nn.LayerNorm]:
    """Return a factory of layer norms of tokens, for the argument ``norm_layer`` of `ViT`.

    Recipes name this function in a `LazyCall`, so that ``eps`` can be overridden and saved.

    Args:
        eps: added to the variance; pre-trained ViTs use 1e-6, torch's default is 1e-5.
    """
    return partial(nn.LayerNorm, eps=eps)


def channel_norm(norm: str | Callable[[int], nn.Module], channels: int) -> nn.Module:
    """Return a norm of feature maps ``(B, C, H, W)``; the identity if the name is empty.

    ``"LN"`` is a norm over channels, which is no `nn.LayerNorm`: optimizer groups and a ViT-wide
    initialisation tell the two apart.

    Args:
        norm: as `detectron2.layers.get_norm` takes it.
        channels: channels of the maps.
    """
    if norm == "LN":
        return ChannelLayerNorm(channels)
    return get_norm(norm, channels) or nn.Identity()

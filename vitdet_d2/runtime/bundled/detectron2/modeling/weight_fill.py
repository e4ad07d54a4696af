# SPDX-License-Identifier: Apache-2.0
"""Initial weights of the heads and pyramids, under their historical names.

fvcore has the same two functions, but importing ``fvcore.nn`` compiles losses with a deprecated
part of torch, and every user would read the warnings.

Source: the distributions of fvcore ``nn/weight_init.py`` (``c2_msra_fill``, ``c2_xavier_fill``).
"""

from __future__ import annotations

from torch import nn

__all__ = ["fill_msra", "fill_xavier"]

_Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def _zero_bias(layer: _Layer) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def fill_msra(layer: _Layer) -> None:
    """Draw normal weights that keep the variance of gradients through ReLU; zero the bias.

    Args:
        layer: changed in place.
    """
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    _zero_bias(layer)


def fill_xavier(layer: _Layer) -> None:
    """Draw uniform weights that keep the variance of a linear layer; zero the bias.

    Args:
        layer: changed in place.
    """
    nn.init.kaiming_uniform_(layer.weight, a=1)
    _zero_bias(layer)

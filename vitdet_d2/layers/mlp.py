# SPDX-License-Identifier: Apache-2.0
"""The two-layer perceptron of a transformer block.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vitdet_d2.layers.linear import Linear

# How near below a whole number a width is that number: 1536 * (4096 / 1536) need not be 4096.
_ROUNDING = 1e-3


def hidden_width(dim: int, mlp_ratio: float) -> int:
    """Return the hidden width of a perceptron: rounded down, but not for the error of a quotient.

    Args:
        dim: channels of a token.
        mlp_ratio: hidden width in multiples of ``dim``, such as 4, or 4096 / 1536.
    """
    return int(dim * mlp_ratio + _ROUNDING)


class Mlp(nn.Module):
    """Linear, activation, linear; parameters ``fc1`` and ``fc2``."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        """Build both layers.

        Args:
            in_features: width of the input and of the output.
            hidden_features: width between the two layers.
            act_layer: makes the activation.
        """
        super().__init__()
        self.fc1 = Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = Linear(hidden_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to the same shape."""
        return self.fc2(self.act(self.fc1(x)))

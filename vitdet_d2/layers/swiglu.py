# SPDX-License-Identifier: Apache-2.0
"""The gated perceptron of a transformer block.

Source: Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202, equation 6; with a norm of
the hidden layer: EVA-02, arXiv 2303.11331, section 2 (sub-LN).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from vitdet_d2.layers.linear import Linear


class SwiGLU(nn.Module):
    """``w3(norm(silu(w1 x) * w2 x))``; parameters ``w1``, ``w2``, ``w3``, and ``ffn_ln``."""

    ffn_ln: nn.Module

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        """Build the three layers, and the norm.

        Args:
            in_features: width of the input and of the output.
            hidden_features: width of the gate and of what it gates.
            norm_layer: makes the norm of the hidden layer; None: there is none.
        """
        super().__init__()
        self.w1 = Linear(in_features, hidden_features)
        self.w2 = Linear(in_features, hidden_features)
        self.ffn_ln = nn.Identity() if norm_layer is None else norm_layer(hidden_features)
        self.w3 = Linear(hidden_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to the same shape."""
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))

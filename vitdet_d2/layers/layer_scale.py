# SPDX-License-Identifier: Apache-2.0
"""A learned factor for every channel of a residual branch.

Source: CaiT, arXiv 2103.17239, section 2 (LayerScale).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Multiply every channel by its own factor; parameter ``gamma``."""

    def __init__(self, dim: int, init: float) -> None:
        """Build the factors.

        Args:
            dim: channels of a token.
            init: every factor at first; small, so that a deep network starts near the identity.
        """
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., dim)`` to the same shape."""
        return x * self.gamma

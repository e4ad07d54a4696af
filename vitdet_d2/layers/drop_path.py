# SPDX-License-Identifier: Apache-2.0
"""Stochastic depth: leave out a residual branch, one draw per sample.

Source: "Deep Networks with Stochastic Depth", arXiv 1603.09382; equals timm `DropPath`.
"""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero a residual branch for whole samples, and scale the survivors to keep the mean."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        """Store the rate.

        Args:
            drop_prob: probability that a sample's branch is left out, ``0 <= drop_prob < 1``.

        Raises:
            ValueError: the probability lies outside its range.
        """
        super().__init__()
        if not 0.0 <= drop_prob < 1.0:
            raise ValueError(f"drop_prob: expected 0 <= drop_prob < 1, got {drop_prob}")
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` ``(B, ...)``, in training with some of its samples zeroed."""
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1.0 - self.drop_prob
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep_prob)
        return x * keep.div_(keep_prob)

    def extra_repr(self) -> str:
        """Show the rate in the printed model."""
        return f"drop_prob={self.drop_prob:.3f}"

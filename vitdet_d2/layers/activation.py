# SPDX-License-Identifier: Apache-2.0
"""Activations of the perceptrons, by the names that pre-trained models need.

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415, section 2, which
gives the exact function and both approximations. OpenAI's CLIP uses the sigmoid one, Google's ViTs
(flax) the one with tanh, all others the exact one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]


class QuickGELU(nn.Module):
    """The approximation ``x * sigmoid(1.702 * x)`` of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` to the same shape."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "quick_gelu": QuickGELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
}

# SPDX-License-Identifier: Apache-2.0
"""One batch normalisation per feature map, for layers that all maps share.

Source: Rethinking "Batch" in BatchNorm, arXiv 2105.07576, section 5.2; equals
``CycleBatchNormList`` of detectron2 ``layers/batch_norm.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CycleBatchNormList(nn.ModuleList):
    """Layers with statistics of their own and one scale and shift, used in turn.

    The caller goes through all maps, in the same order, before it begins again.
    """

    def __init__(
        self,
        length: int,
        bn_class: type[nn.BatchNorm2d] | type[nn.SyncBatchNorm] = nn.BatchNorm2d,
        *,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        """Build the layers.

        Args:
            length: number of feature maps.
            bn_class: the batch normalisation.
            num_features: number of channels.
            eps: added to the variance.
            momentum: weight of the newest statistics in the running ones.
            affine: whether to learn a scale and a shift.
        """
        super().__init__(
            bn_class(num_features, eps=eps, momentum=momentum, affine=False) for _ in range(length)
        )
        self._affine = affine
        if affine:
            self.weight = nn.Parameter(torch.ones(num_features))
            self.bias = nn.Parameter(torch.zeros(num_features))
        self._position = 0

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape with the layer whose turn it is."""
        normed = self[self._position](x)
        self._position = (self._position + 1) % len(self)
        if not self._affine:
            return normed
        return normed * self.weight[:, None, None] + self.bias[:, None, None]

    def extra_repr(self) -> str:
        """Show in ``print(model)`` whether there is a scale and a shift."""
        return f"affine={self._affine}"

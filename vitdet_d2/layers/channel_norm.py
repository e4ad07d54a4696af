# SPDX-License-Identifier: Apache-2.0
"""Layer norm over the channels of feature maps, in one pass over a channels-last memory.

Source: equals `LayerNorm` in detectron2/layers/batch_norm.py, which takes eight passes.
"""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.layers.batch_norm import LayerNorm
from torch import Tensor, nn


class ChannelLayerNorm(LayerNorm):
    """Detectron2's norm of maps, with its parameters ``weight`` and ``bias``, computed at once.

    No subclass of `nn.LayerNorm`: optimizer groups and a ViT-wide initialisation tell the two
    apart.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape; the memory of the result is channels-last."""
        by_position = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        normed = F.layer_norm(by_position, self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


def fuse_channel_norms(model: nn.Module) -> nn.Module:
    """Let every norm of maps of Detectron2's class in a model compute as `ChannelLayerNorm`.

    For heads of an installed Detectron2, which build their norms by name. Parameters, names and
    hooks stay.

    Args:
        model: changed in place.

    Returns:
        The model.
    """
    for module in model.modules():
        if type(module) is LayerNorm:
            module.__class__ = ChannelLayerNorm
    return model

# SPDX-License-Identifier: Apache-2.0
"""Features of a region for box prediction: convolutions, then fully connected layers.

Source: equals detectron2 ``roi_heads/box_head.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.by_name import part_by_name
from detectron2.modeling.roi_heads.convolutions import add_convolutions
from detectron2.modeling.weight_fill import fill_msra, fill_xavier
from detectron2.utils.registry import Registry
from torch import nn

__all__ = ["ROI_BOX_HEAD_REGISTRY", "FastRCNNConvFCHead", "build_box_head"]

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
ROI_BOX_HEAD_REGISTRY.__doc__ = """Box heads by name: ``obj(cfg, input_shape)``."""


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions with normalisation and ReLU, then linear layers with ReLU."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        conv_norm: str = "",
    ) -> None:
        """Build the layers, named ``conv<i>`` and ``fc<i>`` from 1.

        Args:
            input_shape: channels, height and width of a region's features.
            conv_dims: output channels of each convolution.
            fc_dims: outputs of each linear layer.
            conv_norm: normalisation after convolutions, see ``get_norm``; "" for none.

        Raises:
            ValueError: no layers, or linear layers on features of unknown size.
        """
        super().__init__()
        if not conv_dims and not fc_dims:
            raise ValueError("conv_dims, fc_dims: expected at least one layer, got none")
        channels, height, width = input_shape.channels or 0, input_shape.height, input_shape.width
        self.conv_norm_relus = add_convolutions(self, "conv", channels, conv_dims, conv_norm)
        channels = conv_dims[-1] if conv_dims else channels
        self._output_shape = ShapeSpec(channels=channels, height=height, width=width)

        self.fcs: list[nn.Linear] = []
        if fc_dims:
            if not height or not width:
                raise ValueError(f"input_shape: expected a height and a width, got {input_shape}")
            self.add_module("flatten", nn.Flatten())
            self._output_shape = ShapeSpec(channels=fc_dims[-1])
            channels = math.prod((channels, height, width))
        for i, dim in enumerate(fc_dims, start=1):
            fc = nn.Linear(channels, dim)
            self.add_module(f"fc{i}", fc)
            self.add_module(f"fc_relu{i}", nn.ReLU())
            self.fcs.append(fc)
            channels = dim

        for conv in self.conv_norm_relus:
            fill_msra(conv)
        for fc in self.fcs:
            fill_xavier(fc)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the arguments that ``MODEL.ROI_BOX_HEAD`` holds.

        Args:
            cfg: the yacs configuration.
            input_shape: of a region's features.
        """
        node = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "conv_dims": [node.CONV_DIM] * node.NUM_CONV,
            "fc_dims": [node.FC_DIM] * node.NUM_FC,
            "conv_norm": node.NORM,
        }

    @property
    def output_shape(self) -> ShapeSpec:
        """Shape of the output of one region."""
        return self._output_shape


def build_box_head(cfg: Any, input_shape: ShapeSpec) -> Any:
    """Build the box head ``MODEL.ROI_BOX_HEAD.NAME``.

    Args:
        cfg: the yacs configuration.
        input_shape: of a region's features.

    Raises:
        KeyError: no box head has the name.
    """
    name = cfg.MODEL.ROI_BOX_HEAD.NAME
    return part_by_name(ROI_BOX_HEAD_REGISTRY, name, "MODEL.ROI_BOX_HEAD.NAME")(cfg, input_shape)

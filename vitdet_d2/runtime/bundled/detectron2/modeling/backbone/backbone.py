# SPDX-License-Identifier: Apache-2.0
"""The interface between a feature extractor and what is built on it.

Source: equals detectron2 ``backbone/backbone.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from detectron2.layers import ShapeSpec
from torch import nn

__all__ = ["Backbone"]


class Backbone(nn.Module, ABC):
    """A module that turns a batch of images into named feature maps.

    A subclass either overrides ``output_shape`` or sets ``_out_features`` (names),
    ``_out_feature_channels`` and ``_out_feature_strides`` (by name).
    """

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    @abstractmethod
    def forward(self, *args: Any) -> Any:
        """Return a dictionary from feature name to ``(N, C, H, W)``."""

    @property
    def size_divisibility(self) -> int:
        """Multiple to which image height and width are padded; 0 where any size will do."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further wishes for padding.

        ``size_divisibility`` overrides the property of that name; ``square_size`` > 0 asks for
        squares of that side, in pixels.
        """
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of every feature map, by name."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }

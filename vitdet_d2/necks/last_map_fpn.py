# SPDX-License-Identifier: Apache-2.0
"""A standard FPN on the last map of a plain backbone alone, brought to several strides.

Between the simple feature pyramid, which has no lateral and top-down connections, and the FPN on
several maps.

Source: ViTDet, arXiv 2203.16527, figure 2 (b), "FPN, last-map".
"""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling.backbone.backbone import Backbone
from torch import nn

from vitdet_d2.necks.multi_tap_fpn import MultiTapFPN


class LastMapFPN(MultiTapFPN):
    """`MultiTapFPN` whose levels all start from the same map."""

    def __init__(
        self,
        net: Backbone,
        in_feature: str,
        out_channels: int,
        scale_factors: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
        top_block: nn.Module | None = None,
        norm: str = "LN",
        resampling_norm: str = "LN",
        square_pad: int = 0,
    ) -> None:
        """Build the resampling and the pyramid.

        Args:
            net: the backbone.
            in_feature: name of the backbone's map that every level starts from.
            out_channels: channels of every level.
            scale_factors: see `MultiTapFPN`.
            top_block: see `MultiTapFPN`.
            norm: see `MultiTapFPN`.
            resampling_norm: see `MultiTapFPN`.
            square_pad: side, in pixels, of the square that images are padded to; 0: none.

        Raises:
            TypeError: ``net`` is no Detectron2 backbone.
            RecipeError: a map that does not exist, or scale factors that do not fit.
        """
        super().__init__(
            net,
            [in_feature] * len(scale_factors),
            out_channels,
            scale_factors,
            top_block,
            norm,
            resampling_norm,
            square_pad,
        )

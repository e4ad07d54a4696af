# SPDX-License-Identifier: Apache-2.0
"""A standard FPN on the maps of several blocks of a plain ViT, brought to the strides of stages.

Levels are named ``p<k>`` for stride ``2 ** k``.

Source: 2111.11429, section 2.1, after XCiT, arXiv 2106.09681; ViTDet, arXiv 2203.16527, figure 2
(a), "FPN, 4-stage"; FPN, arXiv 1612.03144.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.backbone import Backbone
from torch import nn

from vitdet_d2.backbones.vit import ViT
from vitdet_d2.necks.resampling import ResampledMaps

logger = logging.getLogger(__name__)


class MultiTapFPN(FPN):
    """Deconvolutions, identity and pooling of one map each, then a top-down FPN.

    Submodules: ``bottom_up`` (`ResampledMaps`, with the backbone as ``net``), Detectron2's
    ``fpn_lateral<k>`` and ``fpn_output<k>``, and ``top_block``.
    """

    def __init__(
        self,
        net: Backbone,
        in_features: Sequence[str],
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
            in_features: name of the backbone's map that each level starts from, finest level
                first; for a ViT ``stage1`` and so on, see its ``out_block_indexes``.
            out_channels: channels of every level.
            scale_factors: size of each level relative to its map, out of 4, 2, 1 and 0.5, such
                that each level is half of the one before in size.
            top_block: makes further levels from level ``top_block.in_feature``; has ``num_levels``.
            norm: norm of the convolutions of the FPN, as `detectron2.layers.get_norm` takes it;
                they have a bias if it is empty.
            resampling_norm: norm between two deconvolutions.
            square_pad: side, in pixels, of the square that images are padded to; 0: none.

        Raises:
            TypeError: ``net`` is no Detectron2 backbone.
            RecipeError: maps that do not exist, or scale factors that do not fit.
        """
        bottom_up = ResampledMaps(net, in_features, scale_factors, resampling_norm)
        _warn_of_windowed_maps(net, in_features)
        super().__init__(
            bottom_up=bottom_up,
            in_features=list(bottom_up.output_shape()),
            out_channels=out_channels,
            norm=norm,
            top_block=top_block,
            square_pad=square_pad,
        )

    @property
    def net(self) -> Backbone:
        """The backbone below the resampling, as in the other necks."""
        bottom_up = self.bottom_up
        assert isinstance(bottom_up, ResampledMaps), "set by the constructor"
        return bottom_up.net

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What `ImageList.from_tensors` pads images to."""
        return {"size_divisibility": self._size_divisibility, "square_size": self._square_pad}


def _warn_of_windowed_maps(net: Backbone, in_features: Sequence[str]) -> None:
    """Say which levels start from a map that windows have not been joined in."""
    if not isinstance(net, ViT):
        return
    windowed = {name: i for name, i in net.windowed_maps().items() if name in in_features}
    if windowed:
        logger.warning(
            "MultiTapFPN: %s come from blocks that attend in windows (%s); 2111.11429 lets the "
            "tapped blocks attend globally: take them out of window_block_indexes",
            ", ".join(windowed),
            ", ".join(map(str, windowed.values())),
        )

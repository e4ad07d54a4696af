# SPDX-License-Identifier: Apache-2.0
"""A feature pyramid from the last map of a plain backbone alone.

Levels are named ``p<k>`` for stride ``2 ** k``. Arguments, state-dict keys and numerics are
Detectron2's.

Source: ViTDet, arXiv 2203.16527, section 3; equals `SimpleFeaturePyramid` in
detectron2/modeling/backbone/vit.py, apart from `padding_constraints`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from detectron2.layers import Conv2d
from detectron2.modeling.backbone.backbone import Backbone
from torch import Tensor, nn

from vitdet_d2.layers.norm import channel_norm
from vitdet_d2.necks.resampling import level_strides, map_shape, resampling_layers


class SimpleFeaturePyramid(Backbone):
    """Deconvolutions, identity and pooling of one map, each followed by two convolutions.

    Submodules: ``simfp_<k>`` per level, ``net`` (the backbone) and ``top_block``.
    """

    def __init__(
        self,
        net: Backbone,
        in_feature: str,
        out_channels: int,
        scale_factors: Sequence[float],
        top_block: nn.Module | None = None,
        norm: str = "LN",
        square_pad: int = 0,
    ) -> None:
        """Build the levels.

        Args:
            net: the backbone.
            in_feature: name of the backbone's map to use.
            out_channels: channels of every level.
            scale_factors: size of each level relative to that map, each half of the one before,
                out of 4, 2, 1 and 0.5.
            top_block: makes further levels from level ``top_block.in_feature`` (or from a
                map of that name of the backbone); has ``num_levels``.
            norm: norm of the convolutions, as `detectron2.layers.get_norm` takes it; the
                convolutions have a bias if it is empty.
            square_pad: side, in pixels, of the square that images are padded to; 0: none.

        Raises:
            TypeError: ``net`` is no Detectron2 backbone.
            RecipeError: a scale factor is not supported, or they do not halve from one to the next,
                or the backbone has no such map, or does not state its shape.
        """
        super().__init__()
        channels, stride = map_shape(net, in_feature)
        strides = level_strides([stride] * len(scale_factors), scale_factors)
        self.scale_factors = scale_factors
        levels = [int(math.log2(stride)) for stride in strides]
        self._stage_names = [f"simfp_{level}" for level in levels]
        for name, scale in zip(self._stage_names, scale_factors, strict=True):
            self.add_module(name, _make_stage(channels, out_channels, scale, norm))

        self.net = net
        self.in_feature = in_feature
        self.top_block = top_block
        if top_block is not None:
            num_extra = top_block.num_levels
            assert isinstance(num_extra, int), "a top block counts its levels"
            levels += range(levels[-1] + 1, levels[-1] + 1 + num_extra)
        self._out_features = [f"p{level}" for level in levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._square_pad = square_pad

    @property
    def size_divisibility(self) -> int:
        """Image sides must be multiples of this many pixels: the coarsest convolved stride."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What `ImageList.from_tensors` pads images to.

        Detectron2 misspells the first key, and so never pads to a multiple of the stride.
        """
        return {"size_divisibility": self._size_divisibility, "square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Extract the pyramid.

        Args:
            x: images ``(B, 3, H, W)``, ``H`` and ``W`` multiples of `size_divisibility`.

        Returns:
            ``{"p<k>": (B, out_channels, H / 2 ** k, W / 2 ** k)}``, finest first.
        """
        maps = self.net(x)
        source = maps[self.in_feature]
        levels = [self.get_submodule(name)(source) for name in self._stage_names]
        if self.top_block is not None:
            name = str(self.top_block.in_feature)
            top_input = maps[name] if name in maps else levels[self._out_features.index(name)]
            levels.extend(self.top_block(top_input))
        return dict(zip(self._out_features, levels, strict=True))


def _make_stage(dim: int, out_channels: int, scale: float, norm: str) -> nn.Sequential:
    """Build one level.

    Args:
        dim: channels of the map that it starts from.
        out_channels: channels of the level.
        scale: size of the level relative to that map.
        norm: norm of the convolutions.

    Raises:
        RecipeError: the scale is not supported.
    """
    layers, dim = resampling_layers(dim, scale, norm, halve=True)
    bias = norm == ""
    project = Conv2d(dim, out_channels, 1, bias=bias, norm=channel_norm(norm, out_channels))
    smooth = Conv2d(
        out_channels, out_channels, 3, padding=1, bias=bias, norm=channel_norm(norm, out_channels)
    )
    return nn.Sequential(*layers, project, smooth)

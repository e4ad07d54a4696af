# SPDX-License-Identifier: Apache-2.0
"""Maps of a plain backbone, which all have one stride, brought to the strides of a pyramid.

Source: ViTDet, arXiv 2203.16527, section 3 and figure 2; 2111.11429, section 2.1, after XCiT,
arXiv 2106.09681.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from detectron2.modeling.backbone.backbone import Backbone
from torch import Tensor, nn

from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.norm import channel_norm
from vitdet_d2.layers.upsample import Upsample2x


class ResampledMaps(Backbone):
    """The maps of a backbone at other strides: what a standard FPN wants from below.

    Maps are named ``c<k>`` for stride ``2 ** k``, as are the submodules; ``net`` is the backbone.
    The width stays.
    """

    def __init__(
        self, net: Backbone, in_features: Sequence[str], scale_factors: Sequence[float], norm: str
    ) -> None:
        """Build the resampling of each map.

        Args:
            net: the backbone.
            in_features: name of the backbone's map that each result starts from.
            scale_factors: size of each result relative to its map, out of 4, 2, 1 and 0.5, such
                that each is half of the one before in size.
            norm: norm between two deconvolutions, as `detectron2.layers.get_norm` takes it.

        Raises:
            TypeError: ``net`` is no Detectron2 backbone.
            RecipeError: maps that do not exist or have no shape, or scale factors that do not fit.
        """
        super().__init__()
        if len(in_features) != len(scale_factors):
            raise RecipeError(
                f"in_features: expected one map for each of scale_factors={list(scale_factors)}, "
                f"got {list(in_features)}"
            )
        shapes = [map_shape(net, name) for name in in_features]
        strides = level_strides([stride for _, stride in shapes], scale_factors)
        self.net = net
        self.in_features = tuple(in_features)
        self._out_features = [f"c{int(math.log2(stride))}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = {}
        for name, (dim, _), scale in zip(self._out_features, shapes, scale_factors, strict=True):
            layers, _ = resampling_layers(dim, scale, norm, halve=False)
            self.add_module(name, nn.Sequential(*layers))
            self._out_feature_channels[name] = dim

    @property
    def size_divisibility(self) -> int:
        """Image sides must be multiples of this many pixels: the coarsest stride."""
        return self._out_feature_strides[self._out_features[-1]]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Extract the maps.

        Args:
            x: images ``(B, 3, H, W)``, ``H`` and ``W`` multiples of `size_divisibility`.

        Returns:
            ``{"c<k>": (B, C, H / 2 ** k, W / 2 ** k)}``, finest first.

        Raises:
            ValueError: ``H`` or ``W`` is no such multiple.
        """
        height, width = x.shape[-2:]
        if height % self.size_divisibility or width % self.size_divisibility:
            raise ValueError(
                f"images: expected sides that are multiples of {self.size_divisibility}, got "
                f"{height} x {width}; pad them by the neck's padding_constraints, as "
                "ImageList.from_tensors does"
            )
        maps = self.net(x)
        return {
            name: self.get_submodule(name)(maps[source])
            for name, source in zip(self._out_features, self.in_features, strict=True)
        }


def map_shape(net: Backbone, name: str) -> tuple[int, int]:
    """Return channels and stride of a map of a backbone.

    Args:
        net: the backbone.
        name: of one of its maps.

    Raises:
        TypeError: ``net`` is no Detectron2 backbone.
        RecipeError: it has no such map, or does not state its shape.
    """
    if not isinstance(net, Backbone):
        raise TypeError(f"net: expected a detectron2 Backbone, got {type(net).__name__}")
    shapes = net.output_shape()
    if name not in shapes:
        raise RecipeError(
            f"in_feature: expected one of the backbone's maps ({', '.join(shapes)}), got {name!r}"
            "; a ViT returns more with out_block_indexes"
        )
    shape = shapes[name]
    if shape.channels is None or shape.stride is None:
        raise RecipeError(f"net: expected channels and stride of {name!r}, got {shape}")
    return shape.channels, shape.stride


def level_strides(strides: Sequence[int], scale_factors: Sequence[float]) -> list[int]:
    """Return the strides of a pyramid.

    Args:
        strides: of the map that each level starts from.
        scale_factors: size of each level relative to that map.

    Raises:
        RecipeError: they do not double from one level to the next.
    """
    levels = [int(stride / scale) for stride, scale in zip(strides, scale_factors, strict=True)]
    if any(coarser != 2 * finer for finer, coarser in pairwise(levels)):
        raise RecipeError(
            f"scale_factors: expected each to be half of the one before, "
            f"got {list(scale_factors)}, strides {levels}"
        )
    return levels


def resampling_layers(
    dim: int, scale: float, norm: str, *, halve: bool
) -> tuple[list[nn.Module], int]:
    """Return the layers that bring a map to another size, and the channels that they give.

    Args:
        dim: channels of the map.
        scale: 4: two deconvolutions with norm and GELU between them; 2: one; 1: nothing; 0.5:
            max-pooling.
        norm: norm between two deconvolutions.
        halve: whether each deconvolution halves the channels.

    Raises:
        RecipeError: another scale.
    """
    half, quarter = (dim // 2, dim // 4) if halve else (dim, dim)
    if scale == 4.0:
        layers: list[nn.Module] = [
            Upsample2x(dim, half),
            channel_norm(norm, half),
            nn.GELU(),
            Upsample2x(half, quarter),
        ]
        return layers, quarter
    if scale == 2.0:
        return [Upsample2x(dim, half)], half
    if scale == 1.0:
        return [], dim
    if scale == 0.5:
        return [nn.MaxPool2d(kernel_size=2, stride=2)], dim
    raise RecipeError(f"scale_factors: expected 4, 2, 1 or 0.5, got {scale}")

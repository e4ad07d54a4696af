# SPDX-License-Identifier: Apache-2.0
"""The Pyramid Vision Transformer, version 2, as a detection backbone.

State-dict keys are those of the released detection class, so that its files load by name.

Source: PVT v2, arXiv 2106.13797; equals ``PyramidVisionTransformerV2`` in ``detection/pvt_v2.py``
of github.com/whai362/PVT.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from vitdet_d2.backbones.pyramid_options import PyramidOptions
from vitdet_d2.backbones.pyramid_transformer import (
    PyramidParts,
    PyramidTransformer,
    init_weights_v2,
)
from vitdet_d2.layers.depthwise_mlp import DepthwiseMlp
from vitdet_d2.layers.recompute import Recompute
from vitdet_d2.layers.spatial_reduction_attention import (
    LinearSpatialReductionAttention,
    SpatialReductionAttention,
)
from vitdet_d2.layers.strided_patch_embed import StridedPatchEmbed


class PVTv2(PyramidTransformer):
    """PVT v2: overlapping patches, depth-wise convolutions in place of positions, stage norms.

    Maps: ``res2``, ``res3``, ``res4``, ``res5``.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        in_chans: int = 3,
        frozen_stages: int = 0,
        use_act_checkpoint: Recompute = False,
        linear: bool = False,
    ) -> None:
        """Build the backbone; the defaults are PVT v2-b2.

        Args:
            embed_dims: channels of a token, per stage, as all that has four numbers.
            depths: number of blocks.
            num_heads: attention heads of a block.
            mlp_ratios: hidden width of the perceptrons, in multiples of ``embed_dims``.
            sr_ratios: how many times smaller the map of keys and values is, per side; not used
                with ``linear``.
            qkv_bias: whether query, key and value have a bias.
            drop_path_rate: rate of the last block; it grows linearly from 0 at the first.
            out_features: maps to return, some of ``res2``, ``res3``, ``res4``, ``res5``, in this
                order; stages after the last are not built.
            in_chans: channels of the images.
            frozen_stages: how many stages, from the first, are not trained.
            use_act_checkpoint: whether blocks are computed again in the backward pass, which saves
                memory; ``"selective"``: only what is cheap of them.
            linear: whether keys and values come from a map of 7 x 7 in every stage (b2-li).

        Raises:
            RecipeError: arguments that do not fit together.
        """
        options = PyramidOptions(
            embed_dims=embed_dims,
            depths=depths,
            num_heads=num_heads,
            mlp_ratios=mlp_ratios,
            sr_ratios=sr_ratios,
            qkv_bias=qkv_bias,
            drop_path_rate=drop_path_rate,
            out_features=out_features,
            in_chans=in_chans,
            frozen_stages=frozen_stages,
            use_act_checkpoint=use_act_checkpoint,
        )
        super().__init__(options, overlapping_parts(linear))
        self.linear = linear
        self.apply(init_weights_v2)
        self.freeze_stages(frozen_stages)


def overlapping_parts(linear: bool) -> PyramidParts:
    """Return the parts of PVT v2 and MiT.

    Args:
        linear: whether attention has linear cost.
    """
    return PyramidParts(
        patch_embed=_patch_embed,
        attention=_linear_attention if linear else SpatialReductionAttention,
        mlp=partial(DepthwiseMlp, relu=linear),
        stage_norm=True,
    )


def _patch_embed(stage: int, in_chans: int, embed_dim: int) -> StridedPatchEmbed:
    kernel_size, stride = (7, 4) if stage == 1 else (3, 2)
    return StridedPatchEmbed(
        in_chans, embed_dim, kernel_size=kernel_size, stride=stride, padding=kernel_size // 2
    )


def _linear_attention(dim: int, num_heads: int, qkv_bias: bool, sr_ratio: int) -> nn.Module:
    del sr_ratio  # every stage pools to the same size
    return LinearSpatialReductionAttention(dim, num_heads, qkv_bias)

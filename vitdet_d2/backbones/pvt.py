# SPDX-License-Identifier: Apache-2.0
"""The Pyramid Vision Transformer, version 1, as a detection backbone.

State-dict keys are those of the released detection class, so that its files load by name. One
thing differs from that code, see docs/compatibility.md: position embeddings are resized whenever a
stage's grid is another than in pre-training. There, every stage looks at the number of tokens of
the first, and some image sizes fail or get positions of another layout.

Source: PVT, arXiv 2102.12122; equals ``PyramidVisionTransformer`` in ``detection/pvt.py`` of
github.com/whai362/PVT.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitdet_d2.backbones.pyramid_options import MAP_STRIDES, PyramidOptions
from vitdet_d2.backbones.pyramid_transformer import (
    INIT_STD,
    PyramidParts,
    PyramidTransformer,
    init_weights,
)
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.absolute_position import get_abs_pos
from vitdet_d2.layers.mlp import Mlp
from vitdet_d2.layers.recompute import Recompute
from vitdet_d2.layers.spatial_reduction_attention import SpatialReductionAttention
from vitdet_d2.layers.strided_patch_embed import StridedPatchEmbed

_STRIDES = list(MAP_STRIDES.values())


class PVT(PyramidTransformer):
    """PVT v1: patches side by side, absolute positions in each stage, no norm at a stage's end.

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
        pretrain_img_size: int = 224,
    ) -> None:
        """Build the backbone; the defaults are PVT-Small.

        Args:
            embed_dims: channels of a token, per stage, as all that has four numbers.
            depths: number of blocks.
            num_heads: attention heads of a block.
            mlp_ratios: hidden width of the perceptrons, in multiples of ``embed_dims``.
            sr_ratios: how many times smaller the map of keys and values is, per side.
            qkv_bias: whether query, key and value have a bias.
            drop_path_rate: rate of the last block; it grows linearly from 0 at the first.
            out_features: maps to return, some of ``res2``, ``res3``, ``res4``, ``res5``, in this
                order; stages after the last are not built.
            in_chans: channels of the images.
            frozen_stages: how many stages, from the first, are not trained.
            use_act_checkpoint: whether blocks are computed again in the backward pass, which saves
                memory; ``"selective"``: only what is cheap of them.
            pretrain_img_size: side of the pre-training images, in pixels, a multiple of 32; sets
                the sizes of the position embeddings.

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
        if pretrain_img_size < _STRIDES[-1] or pretrain_img_size % _STRIDES[-1]:
            raise RecipeError(
                f"pretrain_img_size: expected a multiple of {_STRIDES[-1]} pixels, got "
                f"{pretrain_img_size}"
            )
        super().__init__(options, _PARTS)
        for stage in range(1, self.num_stages + 1):
            num_tokens = (pretrain_img_size // _STRIDES[stage - 1]) ** 2
            rows = num_tokens + int(_has_class_row(stage))
            position = nn.Parameter(torch.zeros(1, rows, embed_dims[stage - 1]))
            nn.init.trunc_normal_(position, std=INIT_STD)
            self.register_parameter(f"pos_embed{stage}", position)
        self.apply(init_weights)
        self.freeze_stages(frozen_stages)

    def _enter(self, stage: int, x: Tensor) -> Tensor:
        x = super()._enter(stage, x)
        position = self.get_parameter(f"pos_embed{stage}")
        hw = (x.shape[1], x.shape[2])
        return x + get_abs_pos(position, _has_class_row(stage), hw, mode="bilinear")


def _has_class_row(stage: int) -> bool:
    """Whether a stage's positions begin with that of a class token, which is not used."""
    return stage == len(_STRIDES)


def _patch_embed(stage: int, in_chans: int, embed_dim: int) -> StridedPatchEmbed:
    patch_size = 4 if stage == 1 else 2
    return StridedPatchEmbed(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)


_PARTS = PyramidParts(
    patch_embed=_patch_embed, attention=SpatialReductionAttention, mlp=Mlp, stage_norm=False
)

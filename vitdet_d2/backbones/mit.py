# SPDX-License-Identifier: Apache-2.0
"""MiT, the encoder of SegFormer, as a detection backbone.

Its computation is that of PVT v2; the sizes differ, see `vitdet_d2.backbones.pvt_sizes`. State-dict
keys are those of the released files, whose licence allows non-commercial use only.

Source: SegFormer, arXiv 2105.15203, section 3.1; equals ``MixVisionTransformer`` of
github.com/NVlabs/SegFormer.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitdet_d2.backbones.pvt_v2 import overlapping_parts
from vitdet_d2.backbones.pyramid_options import PyramidOptions
from vitdet_d2.backbones.pyramid_transformer import PyramidTransformer, init_weights_v2
from vitdet_d2.layers.recompute import Recompute


class MiT(PyramidTransformer):
    """Mix Transformer: the parts of PVT v2 in the sizes of SegFormer.

    Maps: ``res2``, ``res3``, ``res4``, ``res5``.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        in_chans: int = 3,
        frozen_stages: int = 0,
        use_act_checkpoint: Recompute = False,
    ) -> None:
        """Build the backbone; the defaults are MiT-b2.

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
        super().__init__(options, overlapping_parts(linear=False))
        self.apply(init_weights_v2)
        self.freeze_stages(frozen_stages)

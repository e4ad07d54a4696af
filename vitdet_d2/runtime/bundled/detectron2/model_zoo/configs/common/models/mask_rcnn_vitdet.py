# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN on ViT-B. Values of Detectron2's ``common/models/mask_rcnn_vitdet.py``."""

from __future__ import annotations

from functools import partial

from detectron2.config import LazyCall
from detectron2.modeling import SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from ..data.constants import constants
from .mask_rcnn_fpn import model

_SIZE = 1024
_DEPTH = 12
_GLOBAL_BLOCKS = (2, 5, 8, 11)  # the last of each quarter

model.backbone = LazyCall(SimpleFeaturePyramid)(
    net=LazyCall(ViT)(
        img_size=_SIZE,
        patch_size=16,
        embed_dim=768,
        depth=_DEPTH,
        num_heads=12,
        drop_path_rate=0.1,
        window_size=14,
        mlp_ratio=4,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        window_block_indexes=[i for i in range(_DEPTH) if i not in _GLOBAL_BLOCKS],
        residual_block_indexes=[],
        use_rel_pos=True,
        out_feature="last_feat",
    ),
    in_feature="${.net.out_feature}",
    out_channels=256,
    scale_factors=(4.0, 2.0, 1.0, 0.5),
    top_block=LazyCall(LastLevelMaxPool)(),
    norm="LN",
    square_pad=_SIZE,
)

model.pixel_mean = constants["imagenet_rgb256_mean"]
model.pixel_std = constants["imagenet_rgb256_std"]
model.input_format = "RGB"

heads = model.roi_heads
heads.box_head.conv_norm = heads.mask_head.conv_norm = "LN"
heads.box_head.conv_dims = [256, 256, 256, 256]
heads.box_head.fc_dims = [1024]
model.proposal_generator.head.conv_dims = [-1, -1]  # two layers as wide as their input
del heads  # only `model` is a part of the recipe

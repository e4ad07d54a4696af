# SPDX-License-Identifier: Apache-2.0
"""The necks of the ablation, put in place of a recipe's simple feature pyramid.

Source: ViTDet, arXiv 2203.16527, section 3, figure 2 and table 1.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from vitdet_d2.backbones.placement import even_blocks
from vitdet_d2.necks import LastMapFPN, MultiTapFPN


def single_map(model):
    """Keep the stride-16 level of the pyramid alone; anchors of all five sizes stand on it."""
    model.backbone.scale_factors = (1.0,)
    model.backbone.top_block = None
    rpn, heads = model.proposal_generator, model.roi_heads
    rpn.in_features = heads.box_in_features = heads.mask_in_features = ["p4"]
    rpn.anchor_generator.strides = [16]
    rpn.anchor_generator.sizes = [[32, 64, 128, 256, 512]]
    rpn.head.num_anchors = 15  # five sizes of three shapes
    heads.box_pooler.scales = heads.mask_pooler.scales = [1 / 16]


def four_stage_fpn(model):
    """Use an FPN on the maps after each quarter of the blocks."""
    net = model.backbone.net
    net.out_block_indexes = L(even_blocks)(depth="${..depth}", count=4)
    model.backbone = L(MultiTapFPN)(
        net=net, in_features=["stage1", "stage2", "stage3", "stage4"], **_PYRAMID
    )


def last_map_fpn(model):
    """Use an FPN on the last map at four strides."""
    model.backbone = L(LastMapFPN)(
        net=model.backbone.net, in_feature="${.net.out_feature}", **_PYRAMID
    )


_PYRAMID = {
    "out_channels": 256,
    "scale_factors": (4.0, 2.0, 1.0, 0.5),
    "top_block": L(LastLevelMaxPool)(),
    "norm": "LN",
    "resampling_norm": "LN",
    "square_pad": "${.net.img_size}",
}

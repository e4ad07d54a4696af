# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN on ViT-B as a benchmark of pre-trained ViTs: taps of four blocks into an FPN.

The four tapped blocks attend globally, the others in windows of 14 x 14 tokens. Relative positions
are BEiT's biases, one table for all windowed blocks and one for all global ones, zero at first.
Batch norm, synchronised over all processes, follows every convolution of FPN, box and mask head.

Source: "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429,
    section 2; the neck after XCiT, arXiv 2106.09681.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from vitdet_d2.backbones.placement import even_blocks
from vitdet_d2.necks import MultiTapFPN

from .mask_rcnn_vitdet import model

__all__ = ["model"]

_NORM = "SyncBN"

_net = model.backbone.net
_net.update(use_rel_pos=False, rel_pos_bias="shared")
_net.out_block_indexes = L(even_blocks)(depth="${..depth}", count=4)

model.backbone = L(MultiTapFPN)(
    net=_net,
    in_features=["stage1", "stage2", "stage3", "stage4"],
    out_channels=256,
    scale_factors=(4.0, 2.0, 1.0, 0.5),
    top_block=L(LastLevelMaxPool)(),
    norm=_NORM,
    resampling_norm="GN",
    square_pad="${.net.img_size}",
)

model.roi_heads.box_head.conv_norm = model.roi_heads.mask_head.conv_norm = _NORM

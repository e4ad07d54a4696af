# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, PVT v2 b0, COCO, 800 px, 12 epochs (1x); a delta of mask_rcnn_pvt_v2_b2.

Source: PVT v2, arXiv 2106.13797; the settings of detection/configs/
    mask_rcnn_pvt_v2_b0_fpn_1x_coco.py, github.com/whai362/PVT at 57e2dfa.
Published: 38.2 box AP, 36.2 mask AP (that repository's table). Not measured here yet.
Published hardware: 8 V100, two images each, 32-bit floats.
Command:
    python train_net.py --config-file projects/mask_rcnn_pvt_v2_b0.py --num-gpus 8
"""

from vitdet_d2.backbones import pvt_v2_arguments

from .mask_rcnn_pvt_v2_b2 import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(pvt_v2_arguments("b0"))
train.init_checkpoint = "pvt_v2_b0"

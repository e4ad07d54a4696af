# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, PVT v2 b2-li, COCO, 800 px, 12 epochs (1x); a delta of mask_rcnn_pvt_v2_b2.

Source: PVT v2, arXiv 2106.13797; the settings of detection/configs/
    mask_rcnn_pvt_v2_b2_li_fpn_1x_coco.py, github.com/whai362/PVT at 57e2dfa.
Published: 44.1 box AP, 40.5 mask AP (that repository's table). Not measured here yet.
Published hardware: 8 V100, two images each, 32-bit floats.
Command:
    python train_net.py --config-file projects/mask_rcnn_pvt_v2_b2_li.py --num-gpus 8
"""

from vitdet_d2.backbones import pvt_v2_arguments

from .mask_rcnn_pvt_v2_b2 import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(pvt_v2_arguments("b2_li"))
train.init_checkpoint = "pvt_v2_b2_li"

# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, PVT v2 b2, COCO, 800 px, 12 epochs (1x); a delta of mask_rcnn_pvt_small.

Source: PVT v2, arXiv 2106.13797; the settings of detection/configs/
    mask_rcnn_pvt_v2_b2_fpn_1x_coco.py, github.com/whai362/PVT at 57e2dfa.
Published: 45.3 box AP, 41.2 mask AP (that repository's table). Not measured here yet.
Published hardware: 8 V100, two images each, 32-bit floats.
Command:
    python train_net.py --config-file projects/mask_rcnn_pvt_v2_b2.py --num-gpus 8
"""

from ..configs.models.mask_rcnn_pvt_v2 import model
from .mask_rcnn_pvt_small import data, dataloader, lr_multiplier, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

train.init_checkpoint = "pvt_v2_b2"

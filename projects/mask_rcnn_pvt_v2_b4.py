# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, PVT v2 b4, COCO, 800 px, 12 epochs (1x); a delta of mask_rcnn_pvt_v2_b2.

Source: PVT v2, arXiv 2106.13797; the settings of detection/configs/
    mask_rcnn_pvt_v2_b4_fpn_1x_coco.py, github.com/whai362/PVT at 57e2dfa.
Published: 47.5 box AP, 42.7 mask AP (that repository's table). Not measured here yet.
Published hardware: 8 V100, one image each, 32-bit floats.
Command:
    python train_net.py --config-file projects/mask_rcnn_pvt_v2_b4.py --num-gpus 8
"""

from vitdet_d2.backbones import pvt_v2_arguments

from ..configs.schedules.coco_1x_batch_8 import lr_multiplier
from .mask_rcnn_pvt_v2_b2 import data, dataloader, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(pvt_v2_arguments("b4"))
train.init_checkpoint = "pvt_v2_b4"

# Half the batch, twice the iterations, and the learning rate that goes with it.
dataloader.train.total_batch_size = 8
optimizer.lr = optimizer.lr / 1.4
train.max_iter = 2 * train.max_iter
train.eval_period = train.checkpointer.period = 2 * train.eval_period

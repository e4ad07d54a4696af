# SPDX-License-Identifier: Apache-2.0
"""RetinaNet, PVT v2 b5, COCO, 800 px, 12 epochs (1x); a delta of retinanet_pvt_v2_b2.

Source: PVT v2, arXiv 2106.13797; the settings of detection/configs/
    retinanet_pvt_v2_b5_fpn_1x_coco.py, github.com/whai362/PVT at 57e2dfa.
Published: 46.2 box AP (that repository's table). Not measured here yet.
Published hardware: 8 V100, one image each, 32-bit floats.
Command:
    python train_net.py --config-file projects/retinanet_pvt_v2_b5.py --num-gpus 8
"""

from vitdet_d2.backbones import pvt_v2_arguments

from ..configs.schedules.coco_1x_batch_8 import lr_multiplier
from .retinanet_pvt_v2_b2 import data, dataloader, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(pvt_v2_arguments("b5"))
train.init_checkpoint = "pvt_v2_b5"

# Half the batch, twice the iterations, and the learning rate that goes with it.
dataloader.train.total_batch_size = 8
optimizer.lr = optimizer.lr / 1.4
train.max_iter = 2 * train.max_iter
train.eval_period = train.checkpointer.period = 2 * train.eval_period

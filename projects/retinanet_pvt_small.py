# SPDX-License-Identifier: Apache-2.0
"""RetinaNet, PVT-Small, COCO, 800 px, 12 epochs (1x).

Source: PVT, arXiv 2102.12122; the settings of detection/configs/
    retinanet_pvt_s_fpn_1x_coco.py, github.com/whai362/PVT at 57e2dfa.
Published: 40.4 box AP (that repository's table). Not measured here yet.
Published hardware: 8 V100, two images each, 32-bit floats.
Command:
    python train_net.py --config-file projects/retinanet_pvt_small.py --num-gpus 8

What differs from MMDetection, in which the published numbers were measured, although the settings
are the same: docs/recipes.md, "PVT".
"""

from ..configs.data.coco_1x_boxes import data, dataloader
from ..configs.models.retinanet_pvt import model
from ..configs.optim.adamw_uniform import optimizer
from ..configs.schedules.coco_1x import lr_multiplier
from ..configs.train import train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

optimizer.lr = 1e-4
train.init_checkpoint = "pvt_small"
train.amp.enabled = False
train.max_iter = 87960
# Once per epoch.
train.eval_period = train.checkpointer.period = 7330

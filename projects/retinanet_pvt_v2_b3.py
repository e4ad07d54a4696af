# SPDX-License-Identifier: Apache-2.0
"""RetinaNet, PVT v2 b3, COCO, 800 px, 12 epochs (1x); a delta of retinanet_pvt_v2_b2.

Source: PVT v2, arXiv 2106.13797; the settings of detection/configs/
    retinanet_pvt_v2_b3_fpn_1x_coco.py, github.com/whai362/PVT at 57e2dfa.
Published: 45.9 box AP (that repository's table). Not measured here yet.
Published hardware: 8 V100, two images each, 32-bit floats.
Command:
    python train_net.py --config-file projects/retinanet_pvt_v2_b3.py --num-gpus 8
"""

from vitdet_d2.backbones import pvt_v2_arguments

from .retinanet_pvt_v2_b2 import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(pvt_v2_arguments("b3"))
train.init_checkpoint = "pvt_v2_b3"

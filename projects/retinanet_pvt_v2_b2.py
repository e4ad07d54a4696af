# SPDX-License-Identifier: Apache-2.0
"""RetinaNet, PVT v2 b2, COCO, 800 px, 12 epochs (1x); a delta of retinanet_pvt_small.

Source: PVT v2, arXiv 2106.13797; the settings of detection/configs/
    retinanet_pvt_v2_b2_fpn_1x_coco.py, github.com/whai362/PVT at 57e2dfa.
Published: 44.6 box AP (that repository's table). Not measured here yet.
Published hardware: 8 V100, two images each, 32-bit floats.
Command:
    python train_net.py --config-file projects/retinanet_pvt_v2_b2.py --num-gpus 8
"""

from ..configs.models.retinanet_pvt_v2 import model
from .retinanet_pvt_small import data, dataloader, lr_multiplier, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

train.init_checkpoint = "pvt_v2_b2"

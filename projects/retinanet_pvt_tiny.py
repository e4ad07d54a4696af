# SPDX-License-Identifier: Apache-2.0
"""RetinaNet, PVT-Tiny, COCO, 800 px, 12 epochs (1x); a delta of retinanet_pvt_small.

Source: PVT, arXiv 2102.12122; the settings of detection/configs/
    retinanet_pvt_t_fpn_1x_coco.py, github.com/whai362/PVT at 57e2dfa.
Published: 36.7 box AP (that repository's table). Not measured here yet.
Published hardware: 8 V100, two images each, 32-bit floats.
Command:
    python train_net.py --config-file projects/retinanet_pvt_tiny.py --num-gpus 8
"""

from vitdet_d2.backbones import pvt_arguments

from .retinanet_pvt_small import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(pvt_arguments("tiny"))
train.init_checkpoint = "pvt_tiny"

# SPDX-License-Identifier: Apache-2.0
"""RetinaNet, PVT-Large, COCO, 800 px, 12 epochs (1x); a delta of retinanet_pvt_small.

Source: PVT, arXiv 2102.12122; the settings of detection/configs/
    retinanet_pvt_l_fpn_1x_coco.py, github.com/whai362/PVT at 57e2dfa.
Published: 42.6 box AP (that repository's table). Not measured here yet.
Published hardware: 8 V100, two images each, 16-bit floats (apex).
Command:
    python train_net.py --config-file projects/retinanet_pvt_large.py --num-gpus 8
"""

from vitdet_d2.backbones import pvt_arguments

from .retinanet_pvt_small import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(pvt_arguments("large"))
model.backbone.bottom_up.drop_path_rate = 0.0
train.init_checkpoint = "pvt_large"
train.amp.update(enabled=True, dtype="fp16")

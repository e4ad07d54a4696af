# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, MViTv2-B, COCO, 1024 px, 100 epochs.

A row that ViTDet is compared with; the backbone is pre-trained on ImageNet-21k with its labels.

Source: MViTv2, arXiv 2112.01526; ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/COCO/cascade_mask_rcnn_mvitv2_b_in21k_100ep.py.
Published: 55.6 box AP, 48.1 mask AP (Detectron2, model 325820315). Not measured here yet.
Published cost: 64 A100, one image each: 0.475 s per iteration, 8.9 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/cascade_mvitv2_b.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.data.coco_lsj import data, dataloader
from ..configs.models.cascade_mask_rcnn_mvitv2 import model
from ..configs.optim.adamw import optimizer
from ..configs.schedules.coco import lr_multiplier
from ..configs.train import train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

optimizer.lr = 8e-5

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_B_in21k.pyth"
train.max_iter = 184375
train.ddp.fp16_compression = True

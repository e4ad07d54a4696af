# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, Swin-B, COCO, 1024 px, 50 epochs.

A row that ViTDet is compared with; the backbone is pre-trained on ImageNet-21k with its labels.

Source: Swin, arXiv 2103.14030; ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/COCO/cascade_mask_rcnn_swin_b_in21k_50ep.py.
Published: 53.9 box AP, 46.2 mask AP (Detectron2, model 342979038). Not measured here yet.
Published cost: 64 A100, one image each: 0.389 s per iteration, 8.7 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/cascade_swin_b.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.data.coco_lsj import data, dataloader
from ..configs.models.cascade_mask_rcnn_swin import model
from ..configs.optim.adamw import optimizer
from ..configs.schedules.coco import lr_multiplier
from ..configs.train import train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

optimizer.lr = 4e-5
optimizer.weight_decay = 0.05

train.init_checkpoint = "detectron2://ImageNetPretrained/swin/swin_base_patch4_window7_224_22k.pth"
train.ddp.fp16_compression = True
# 50 epochs: half of every number. The warm-up is a fraction of the run: it is 125 iterations.
train.max_iter = 184375 // 2
lr_multiplier.scheduler.milestones = [i // 2 for i in lr_multiplier.scheduler.milestones]
lr_multiplier.scheduler.num_updates = train.max_iter

# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, MViTv2-L, LVIS v1, 1024 px, 50 epochs; a delta of lvis_cascade_mvitv2_b.

A row that ViTDet is compared with; the backbone is pre-trained on ImageNet-21k with its labels.

Source: MViTv2, arXiv 2112.01526; ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/LVIS/cascade_mask_rcnn_mvitv2_l_in21k_50ep.py.
Published: 49.4 box AP, 44.2 mask AP (Detectron2, model 329661552). Not measured here yet.
Published cost: 64 A100, one image each: 0.844 s per iteration, 21.0 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/lvis_cascade_mvitv2_l.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from .lvis_cascade_mvitv2_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(name="mvitv2_large_cls", drop_path_rate=0.5)

optimizer.lr = 4e-5

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_L_in21k.pyth"
# 50 epochs: half of every number, but for the warm-up.
train.max_iter = train.max_iter // 2
lr_multiplier.scheduler.milestones = [i // 2 for i in lr_multiplier.scheduler.milestones]
lr_multiplier.scheduler.num_updates = train.max_iter
lr_multiplier.warmup_length = 250 / train.max_iter

# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, MViTv2-H, LVIS v1, 1024 px, 50 epochs; a delta of lvis_cascade_mvitv2_b.

A row that ViTDet is compared with; the backbone is pre-trained on ImageNet-21k with its labels.

Source: MViTv2, arXiv 2112.01526; ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/LVIS/cascade_mask_rcnn_mvitv2_h_in21k_50ep.py.
Published: 49.5 box AP, 44.1 mask AP (Detectron2, model 330445165). Not measured here yet.
Published cost: 64 A100, one image each: 1.661 s per iteration, 21.3 GB with
    activation checkpointing.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/lvis_cascade_mvitv2_h.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from .lvis_cascade_mvitv2_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(name="mvitv2_huge_cls", drop_path_rate=0.6, use_act_checkpoint=True)

optimizer.lr = 2e-5

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_H_in21k.pyth"
# 50 epochs: half of every number, but for the warm-up.
train.max_iter = train.max_iter // 2
lr_multiplier.scheduler.milestones = [i // 2 for i in lr_multiplier.scheduler.milestones]
lr_multiplier.scheduler.num_updates = train.max_iter
lr_multiplier.warmup_length = 250 / train.max_iter

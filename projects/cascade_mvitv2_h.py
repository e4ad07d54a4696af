# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, MViTv2-H, COCO, 1024 px, 36 epochs; a delta of cascade_mvitv2_b.

A row that ViTDet is compared with; the backbone is pre-trained on ImageNet-21k with its labels.

Source: MViTv2, arXiv 2112.01526; ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/COCO/cascade_mask_rcnn_mvitv2_h_in21k_36ep.py.
Published: 55.9 box AP, 48.3 mask AP (Detectron2, model 326187358). Not measured here yet.
Published cost: 64 A100, one image each: 1.655 s per iteration, 18.4 GB with
    activation checkpointing.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/cascade_mvitv2_h.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from .cascade_mvitv2_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(name="mvitv2_huge_cls", drop_path_rate=0.6, use_act_checkpoint=True)

optimizer.lr = 1.6e-4

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_H_in21k.pyth"
# 67500 iterations * 64 images / 118000 images per epoch = 36.6 epochs.
train.max_iter = 67500
lr_multiplier.scheduler.update(milestones=[52500, 62500], num_updates=train.max_iter)
lr_multiplier.warmup_length = 250 / train.max_iter

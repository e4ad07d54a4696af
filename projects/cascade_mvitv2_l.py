# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, MViTv2-L, COCO, 1024 px, 50 epochs; a delta of cascade_mvitv2_b.

A row that ViTDet is compared with; the backbone is pre-trained on ImageNet-21k with its labels.

Source: MViTv2, arXiv 2112.01526; ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/COCO/cascade_mask_rcnn_mvitv2_l_in21k_50ep.py.
Published: 55.7 box AP, 48.3 mask AP (Detectron2, model 325607715). Not measured here yet.
Published cost: 64 A100, one image each: 0.844 s per iteration, 19.7 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/cascade_mvitv2_l.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from .cascade_mvitv2_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.update(name="mvitv2_large_cls", drop_path_rate=0.5)

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_L_in21k.pyth"
# 50 epochs: half of every number. The warm-up is a fraction of the run: it is 125 iterations.
train.max_iter = train.max_iter // 2
lr_multiplier.scheduler.milestones = [i // 2 for i in lr_multiplier.scheduler.milestones]
lr_multiplier.scheduler.num_updates = train.max_iter

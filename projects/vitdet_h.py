# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, ViT-H, COCO, 1024 px, 75 epochs; a delta of vitdet_b.

Source: ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/COCO/mask_rcnn_vitdet_h_75ep.py.
Published: 56.7 box AP, 50.2 mask AP (Detectron2, model 329145471). Not measured here yet.
Published cost: 64 A100, one image each: 1.098 s per iteration, 31.5 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/vitdet_h.py --num-gpus 8 --num-machines 8 \
        --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from vitdet_d2.backbones import vit_arguments

from .vitdet_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.update(vit_arguments("h"))
model.backbone.net.drop_path_rate = 0.5

# Weight decay on every parameter, norms and position embeddings included: as published.
optimizer.params.lr_factor_func.num_layers = 32
optimizer.params.lr_factor_func.lr_decay_rate = 0.9
optimizer.params.overrides = {}
optimizer.params.weight_decay_norm = None

train.init_checkpoint = "mae_vit_h"

# 75 epochs: three quarters of every number. The warm-up is a fraction of the run: it shrinks too.
train.max_iter = train.max_iter * 3 // 4
lr_multiplier.scheduler.milestones = [i * 3 // 4 for i in lr_multiplier.scheduler.milestones]
lr_multiplier.scheduler.num_updates = train.max_iter

# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, ViT-L, COCO, 1024 px, 100 epochs; a delta of vitdet_b.

Source: ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/COCO/mask_rcnn_vitdet_l_100ep.py.
Published: 55.5 box AP, 49.2 mask AP (Detectron2, model 325599698). Not measured here yet.
Published cost: 64 A100, one image each: 0.603 s per iteration, 20.9 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/vitdet_l.py --num-gpus 8 --num-machines 8 \
        --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from vitdet_d2.backbones import vit_arguments

from .vitdet_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.update(vit_arguments("l"))
model.backbone.net.drop_path_rate = 0.4

optimizer.params.lr_factor_func.num_layers = 24
optimizer.params.lr_factor_func.lr_decay_rate = 0.8

train.init_checkpoint = "mae_vit_l"

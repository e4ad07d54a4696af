# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, ViT-S, COCO, 640 px, 50 epochs, for one small GPU; a delta of vitdet_ti.

Source: the detector of ViTDet (arXiv 2203.16527) on the ViT-S of DeiT (arXiv 2012.12877). The
settings are those of vitdet_ti, which explains them; no published model, not measured here yet.
Hardware: meant for one GPU of 24 GB (an estimate); the cures are those of vitdet_ti.
Command:
    python train_net.py --config-file projects/vitdet_s.py --num-gpus 1
"""

from vitdet_d2.backbones import vit_arguments

from .vitdet_ti import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.update(vit_arguments("s"))

# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, Swin-L, COCO, 1024 px, 50 epochs; a delta of cascade_swin_b.

A row that ViTDet is compared with; the backbone is pre-trained on ImageNet-21k with its labels.

Source: Swin, arXiv 2103.14030; ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/COCO/cascade_mask_rcnn_swin_l_in21k_50ep.py.
Published: 55.0 box AP, 47.2 mask AP (Detectron2, model 342979186). Not measured here yet.
Published cost: 64 A100, one image each: 0.508 s per iteration, 12.6 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/cascade_swin_l.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from .cascade_swin_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.name = "swin_large_patch4_window7_224"

train.init_checkpoint = "detectron2://ImageNetPretrained/swin/swin_large_patch4_window7_224_22k.pth"

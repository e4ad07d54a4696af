# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, ViT-B, COCO, 1024 px, 100 epochs.

Source: ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py.
Published: 51.6 box AP, 45.9 mask AP (Detectron2, model 325346929). Not measured here yet.
Published cost: 64 A100, one image each: 0.314 s per iteration, 10.9 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/vitdet_b.py --num-gpus 8 --num-machines 8 \
        --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.data.coco_lsj import data, dataloader
from ..configs.models.mask_rcnn_vitdet import model
from ..configs.optim.adamw_layer_decay import optimizer
from ..configs.schedules.coco import lr_multiplier
from ..configs.train import train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

train.init_checkpoint = "mae_vit_b"
train.max_iter = 184375
train.ddp.fp16_compression = True

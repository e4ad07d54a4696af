# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, ViT-B, COCO, 1024 px, 100 epochs; a delta of vitdet_b.

Source: ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/COCO/cascade_mask_rcnn_vitdet_b_100ep.py.
Published: 54.0 box AP, 46.7 mask AP (Detectron2, model 325358525). Not measured here yet.
Published cost: 64 A100, one image each: 0.362 s per iteration, 12.3 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/cascade_vitdet_b.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.models.cascade_mask_rcnn_vitdet import model as _cascade
from .vitdet_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads = _cascade.roi_heads

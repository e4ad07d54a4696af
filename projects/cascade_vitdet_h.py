# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, ViT-H, COCO, 1024 px, 75 epochs; a delta of vitdet_h.

Source: ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/COCO/cascade_mask_rcnn_vitdet_h_75ep.py.
Published: 58.7 box AP, 51.0 mask AP (Detectron2, model 328730692). Not measured here yet.
Published cost: 64 A100, one image each: 1.137 s per iteration, 32.9 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/cascade_vitdet_h.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.models.cascade_mask_rcnn_vitdet import model as _cascade
from .vitdet_h import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads = _cascade.roi_heads

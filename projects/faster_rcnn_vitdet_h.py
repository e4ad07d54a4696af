# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN, ViT-H, COCO, 1024 px, 75 epochs: boxes only; a delta of vitdet_h.

For data without masks, and where masks are not asked for.

Source: the detector of ViTDet (arXiv 2203.16527) without its mask head; the settings of vitdet_h.
Published: nothing; neither the paper nor Detectron2 has such a model. Not measured here yet.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/faster_rcnn_vitdet_h.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.data.coco_lsj_boxes import data, dataloader
from ..configs.models.faster_rcnn_vitdet import model as _boxes
from .vitdet_h import lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads = _boxes.roi_heads

# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, ViT-L, LVIS v1, 1024 px, 100 epochs; a delta of lvis_vitdet_l.

Source: ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/LVIS/cascade_mask_rcnn_vitdet_l_100ep.py.
Published: 49.2 box AP, 44.5 mask AP (Detectron2, model 329042206). Not measured here yet.
Published cost: 64 A100, one image each: 0.629 s per iteration, 24.9 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/lvis_cascade_vitdet_l.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.models.cascade_mask_rcnn_vitdet import model as _cascade
from ..configs.models.federated_loss import NUM_CLASSES as _NUM_CLASSES
from ..configs.models.federated_loss import predictor as _predictor
from .lvis_vitdet_l import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads = _cascade.roi_heads
model.roi_heads.num_classes = _NUM_CLASSES
for _box_predictor in model.roi_heads.box_predictors:
    _box_predictor.update(_predictor)

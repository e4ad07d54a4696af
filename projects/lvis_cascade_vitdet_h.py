# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, ViT-H, LVIS v1, 1024 px, 100 epochs; a delta of lvis_vitdet_h.

Source: ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/LVIS/cascade_mask_rcnn_vitdet_h_100ep.py.
Published: 51.5 box AP, 46.6 mask AP (Detectron2, model 332552778). Not measured here yet.
Published cost: 64 A100, one image each: 1.100 s per iteration, 35.5 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/lvis_cascade_vitdet_h.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.models.cascade_mask_rcnn_vitdet import model as _cascade
from ..configs.models.federated_loss import NUM_CLASSES as _NUM_CLASSES
from ..configs.models.federated_loss import predictor as _predictor
from .lvis_vitdet_h import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads = _cascade.roi_heads
model.roi_heads.num_classes = _NUM_CLASSES
for _box_predictor in model.roi_heads.box_predictors:
    _box_predictor.update(_predictor)

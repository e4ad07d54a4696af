# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN, ViT-B, LVIS v1, 1024 px, 100 epochs; a delta of vitdet_b.

Source: ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/LVIS/mask_rcnn_vitdet_b_100ep.py.
Published: 40.2 box AP, 38.2 mask AP (Detectron2, model 329225748). Not measured here yet.
Published cost: 64 A100, one image each: 0.317 s per iteration, 14.4 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/lvis_vitdet_b.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.data.lvis_lsj import data, dataloader
from ..configs.models.federated_loss import NUM_CLASSES as _NUM_CLASSES
from ..configs.models.federated_loss import predictor as _predictor
from ..configs.schedules.lvis import lr_multiplier
from .vitdet_b import model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.num_classes = _NUM_CLASSES
model.roi_heads.box_predictor.update(_predictor)

train.max_iter = 156250
train.eval_period = 30000
optimizer.lr = 2e-4

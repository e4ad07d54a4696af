# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, MViTv2-B, LVIS v1, 1024 px, 100 epochs; a delta of cascade_mvitv2_b.

A row that ViTDet is compared with; the backbone is pre-trained on ImageNet-21k with its labels.

Source: MViTv2, arXiv 2112.01526; ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/LVIS/cascade_mask_rcnn_mvitv2_b_in21k_100ep.py.
Published: 46.3 box AP, 42.0 mask AP (Detectron2, model 329477206). Not measured here yet.
Published cost: 64 A100, one image each: 0.475 s per iteration, 11.8 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/lvis_cascade_mvitv2_b.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.data.lvis_lsj import data, dataloader
from ..configs.models.federated_loss import NUM_CLASSES as _NUM_CLASSES
from ..configs.models.federated_loss import predictor as _predictor
from ..configs.schedules.lvis import lr_multiplier
from .cascade_mvitv2_b import model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.num_classes = _NUM_CLASSES
for _box_predictor in model.roi_heads.box_predictors:
    _box_predictor.update(_predictor)

optimizer.lr = 1e-4

train.max_iter = 156250
train.eval_period = 30000

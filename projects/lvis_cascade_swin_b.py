# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN, Swin-B, LVIS v1, 1024 px, 50 epochs; a delta of cascade_swin_b.

A row that ViTDet is compared with; the backbone is pre-trained on ImageNet-21k with its labels.

Source: Swin, arXiv 2103.14030; ViTDet, arXiv 2203.16527; the settings of Detectron2's
    projects/ViTDet/configs/LVIS/cascade_mask_rcnn_swin_b_in21k_50ep.py.
Published: 44.0 box AP, 39.6 mask AP (Detectron2, model 329222304). Not measured here yet.
Published cost: 64 A100, one image each: 0.368 s per iteration, 11.5 GB.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/lvis_cascade_swin_b.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ..configs.data.lvis_lsj import data, dataloader
from ..configs.models.federated_loss import NUM_CLASSES as _NUM_CLASSES
from ..configs.models.federated_loss import predictor as _predictor
from ..configs.schedules.lvis import lr_multiplier
from .cascade_swin_b import model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads.num_classes = _NUM_CLASSES
for _box_predictor in model.roi_heads.box_predictors:
    _box_predictor.update(_predictor)
model.backbone.bottom_up.drop_path_rate = 0.3

optimizer.lr = 1e-4

train.eval_period = 30000
# 50 epochs, which were better than 100: half of every number, but for the warm-up.
train.max_iter = 156250 // 2
lr_multiplier.scheduler.milestones = [i // 2 for i in lr_multiplier.scheduler.milestones]
lr_multiplier.scheduler.num_updates = train.max_iter
lr_multiplier.warmup_length = 250 / train.max_iter

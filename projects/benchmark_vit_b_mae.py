# SPDX-License-Identifier: Apache-2.0
"""Benchmark Mask R-CNN, ViT-B from MAE, COCO, 1024 px, 100 epochs.

Source: "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429.
Published by schedule of 25, 50 and 100 epochs (its authors, facebookresearch/mae, issue 43): 48.1,
    50.1 and 50.3 box AP, 43.2, 44.6 and 44.9 mask AP. Not measured here yet.
Public weights: the authors' own, MAE, IN1K, 1600 epochs: this cell can be reproduced.
Command:
    python train_net.py --config-file projects/benchmark_vit_b_mae.py --num-gpus 8
Other schedules of the paper: train.epochs=25 or train.epochs=50. On fewer GPUs:
train.global_batch=64 train.accumulate=8. Other ways to fit into memory, of the paper too:
train.memory_strategy=full, windowed, hybrid (as it stands) or checkpointed.
"""

from ..configs.data.coco_lsj import data, dataloader
from ..configs.models.mask_rcnn_benchmark import model
from ..configs.optim.adamw import optimizer
from ..configs.schedules.coco_cosine import lr_multiplier
from ..configs.train import train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

train.init_checkpoint = "mae_vit_b"
train.update(epochs=100, warmup_epochs=0.25, max_iter=184375)
train.ddp.fp16_compression = True
optimizer.update(lr=8e-5, weight_decay=0.1)
model.backbone.net.drop_path_rate = 0.1

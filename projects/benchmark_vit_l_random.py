# SPDX-License-Identifier: Apache-2.0
"""Benchmark Mask R-CNN, ViT-L from random weights, COCO, 1024 px, 400 epochs.

Source: "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429.
Published, the best schedule: 50.7 box AP (its section 4.1), 44.9 mask AP [from memory]. Not
    measured here yet.
Public weights: none are needed: this cell can be reproduced.
Command:
    python train_net.py --config-file projects/benchmark_vit_l_random.py --num-gpus 8
Other schedules of the paper: train.epochs=100 or train.epochs=200. On fewer GPUs:
train.global_batch=64 train.accumulate=8. Other ways to fit into memory, of the paper too:
train.memory_strategy=full, windowed, hybrid (as it stands) or checkpointed.
"""

from vitdet_d2.backbones import vit_arguments

from .benchmark_vit_b_random import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.update(vit_arguments("l"))
model.backbone.net.drop_path_rate = 0.3

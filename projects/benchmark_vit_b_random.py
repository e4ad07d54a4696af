# SPDX-License-Identifier: Apache-2.0
"""Benchmark Mask R-CNN, ViT-B from random weights, COCO, 1024 px, 400 epochs.

Source: "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429.
Published, the best schedule: 48.9 box AP (its section 4.1, reached at 200 epochs), 43.6 mask AP
    [from memory]. Not measured here yet.
Public weights: none are needed: this cell can be reproduced.
Command:
    python train_net.py --config-file projects/benchmark_vit_b_random.py --num-gpus 8
Other schedules of the paper: train.epochs=100 or train.epochs=200. On fewer GPUs:
train.global_batch=64 train.accumulate=8. Other ways to fit into memory, of the paper too:
train.memory_strategy=full, windowed, hybrid (as it stands) or checkpointed.
"""

from .benchmark_vit_b_mae import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

train.init_checkpoint = "random"
train.update(epochs=400, max_iter=4 * 184375)
lr_multiplier.warmup_length = 0.25 / 400
optimizer.update(lr=1.6e-4, weight_decay=0.2)

# SPDX-License-Identifier: Apache-2.0
"""Benchmark Mask R-CNN, ViT-B from MoCo v3, COCO, 1024 px, 100 epochs.

Source: "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429.
Published, the best schedule, from the text or MAE's table 4: 47.9 box AP, 42.7 mask AP. Not
    measured here yet.
Public weights: the authors' own, MoCo v3, IN1K, 300 epochs: this cell can be reproduced.
Command:
    python train_net.py --config-file projects/benchmark_vit_b_mocov3.py --num-gpus 8
Other schedules of the paper: train.epochs=25 or train.epochs=50. On fewer GPUs:
train.global_batch=64 train.accumulate=8. Other ways to fit into memory, of the paper too:
train.memory_strategy=full, windowed, hybrid (as it stands) or checkpointed.
"""

from .benchmark_vit_b_mae import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

train.init_checkpoint = "mocov3_vit_b"
optimizer.lr = 1.6e-4

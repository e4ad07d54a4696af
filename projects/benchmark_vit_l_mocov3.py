# SPDX-License-Identifier: Apache-2.0
"""Benchmark Mask R-CNN, ViT-L from MoCo v3, COCO, 1024 px, 100 epochs.

Source: "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429.
Published, the best schedule, from the text or MAE's table 4: 49.3 box AP, 44.0 mask AP. Not
    measured here yet.
Public weights: MoCo v3's ViT-L was never released: this cell cannot be reproduced from public
    weights. train.init_checkpoint must name a file of your own.
Command:
    python train_net.py --config-file projects/benchmark_vit_l_mocov3.py --num-gpus 8
Other schedules of the paper: train.epochs=25 or train.epochs=50. On fewer GPUs:
train.global_batch=64 train.accumulate=8. Other ways to fit into memory, of the paper too:
train.memory_strategy=full, windowed, hybrid (as it stands) or checkpointed.
"""

from vitdet_d2.backbones import vit_arguments

from .benchmark_vit_b_mocov3 import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.update(vit_arguments("l"))
model.backbone.net.drop_path_rate = 0.3
train.init_checkpoint = "mocov3_vit_l.pth.tar"
train.init_options.source = "mocov3"

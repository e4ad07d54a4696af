# SPDX-License-Identifier: Apache-2.0
"""Benchmark Mask R-CNN, ViT-L from BEiT, COCO, 1024 px, 100 epochs.

Source: "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429.
Published, the best schedule, from the text or MAE's table 4: 53.3 box AP, 47.1 mask AP. Not
    measured here yet.
Public weights: the authors of the paper trained BEiT again on IN1K, and did not release that;
    BEiT's own ViT-L saw IN22K: another cell than the published one.
Command:
    python train_net.py --config-file projects/benchmark_vit_l_beit.py --num-gpus 8
Other schedules of the paper: train.epochs=25 or train.epochs=50. On fewer GPUs:
train.global_batch=64 train.accumulate=8. Other ways to fit into memory, of the paper too:
train.memory_strategy=full, windowed, hybrid (as it stands) or checkpointed.
"""

from vitdet_d2.backbones import vit_arguments

from .benchmark_vit_b_beit import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.update(vit_arguments("l"))
model.backbone.net.drop_path_rate = 0.3
train.init_checkpoint = "beit_l"

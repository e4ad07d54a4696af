# SPDX-License-Identifier: Apache-2.0
"""Across windows: four convolutional blocks (basic), ViT-L.

Source: ViTDet, arXiv 2203.16527, table 2 (a), propagation across windows.
Published: 54.8 box AP (paper; ablation tables are without relative positions [from memory]).
Not measured here yet.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/ablation/strategy_conv_l.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ._base_l import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.cross_window = "conv"
model.backbone.net.conv_block = "basic"

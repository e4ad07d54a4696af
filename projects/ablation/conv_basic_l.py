# SPDX-License-Identifier: Apache-2.0
"""Four convolutional blocks, basic: two 3x3 convolutions, ViT-L.

Source: ViTDet, arXiv 2203.16527, table 2 (b), kinds of convolutional blocks.
Published: 54.8 box AP (paper; ablation tables are without relative positions [from memory]).
Not measured here yet.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/ablation/conv_basic_l.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ._base_l import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.cross_window = "conv"
model.backbone.net.conv_block = "basic"

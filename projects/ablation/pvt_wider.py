# SPDX-License-Identifier: Apache-2.0
"""PVT wider: RetinaNet on PVT-Small with 1.4 times the channels.

Source: PVT, arXiv 2102.12122, section 5.5 and table 9, deeper against wider.
Published: 40.8 box AP, 46.8 million parameters of the classifier (paper). Not measured here yet.
Weights: the paper pre-trained the wide model on ImageNet and released no weights of it. It
    starts at random ones here, and compares with pvt_scratch, until train.init_checkpoint names
    some.
Command:
    python train_net.py --config-file projects/ablation/pvt_wider.py --num-gpus 8
"""

from ..retinanet_pvt_small import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

# 1.4 times 64, 128, 320 and 512, down to a multiple of the heads: as many parameters as published.
model.backbone.bottom_up.embed_dims = [89, 178, 445, 712]
train.init_checkpoint = ""

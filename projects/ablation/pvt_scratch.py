# SPDX-License-Identifier: Apache-2.0
"""PVT without pre-training: RetinaNet on PVT-Small from random weights.

Source: PVT, arXiv 2102.12122, section 5.5 and figure 5.
Published: 26.6 box AP (the paper states the gap to 40.4: 13.8). Not measured here yet.
Command:
    python train_net.py --config-file projects/ablation/pvt_scratch.py --num-gpus 8
"""

from ..retinanet_pvt_small import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

train.init_checkpoint = ""

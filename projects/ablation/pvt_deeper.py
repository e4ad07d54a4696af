# SPDX-License-Identifier: Apache-2.0
"""PVT deeper: RetinaNet on PVT-Medium, which is PVT-Small with 12 more blocks.

Source: PVT, arXiv 2102.12122, section 5.5 and table 9, deeper against wider.
Published: 41.9 box AP, 44.2 million parameters of the classifier (paper). Not measured here yet.
Command:
    python train_net.py --config-file projects/ablation/pvt_deeper.py --num-gpus 8
"""

from ..retinanet_pvt_medium import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

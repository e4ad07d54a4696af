# SPDX-License-Identifier: Apache-2.0
"""PVT at a smaller scale: RetinaNet on PVT-Small, shorter side 640.

Source: PVT, arXiv 2102.12122, section 5.5 and table 11.
Published: 38.7 box AP (paper). Not measured here yet.
Command:
    python train_net.py --config-file projects/ablation/pvt_640.py --num-gpus 8
"""

from ..retinanet_pvt_small import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

data.update(short_edge_length=640, max_size=1066)

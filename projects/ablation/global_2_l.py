# SPDX-License-Identifier: Apache-2.0
"""Number of global blocks: two, the last of each half, ViT-L.

Source: ViTDet, arXiv 2203.16527, table 2 (d), number of global blocks.
Published: 54.4 box AP (paper; ablation tables are without relative positions [from memory]).
Not measured here yet.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/ablation/global_2_l.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from detectron2.config import LazyCall as L

from vitdet_d2.backbones.placement import even_blocks

from ._base_l import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.net.cross_window_indexes = L(even_blocks)(depth="${..depth}", count=2)

# SPDX-License-Identifier: Apache-2.0
"""Neck: none, one map of stride 16, ViT-B.

Source: ViTDet, arXiv 2203.16527, table 1, row "no feature pyramid".
Published: 47.8 box AP (paper; ablation tables are without relative positions [from memory]).
Not measured here yet.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/ablation/neck_none_b.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ._base_b import data, dataloader, lr_multiplier, model, optimizer, train
from ._necks import single_map

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

single_map(model)

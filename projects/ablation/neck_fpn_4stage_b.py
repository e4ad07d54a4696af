# SPDX-License-Identifier: Apache-2.0
"""Neck: FPN on the maps of four stages, ViT-B.

Source: ViTDet, arXiv 2203.16527, table 1, row "FPN, 4-stage".
Published: 50.3 box AP (paper; ablation tables are without relative positions [from memory]).
Not measured here yet.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/ablation/neck_fpn_4stage_b.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ._base_b import data, dataloader, lr_multiplier, model, optimizer, train
from ._necks import four_stage_fpn

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

four_stage_fpn(model)

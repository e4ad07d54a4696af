# SPDX-License-Identifier: Apache-2.0
"""Neck: simple feature pyramid, as in every other recipe, ViT-B.

Source: ViTDet, arXiv 2203.16527, table 1, row "simple feature pyramid".
Published: 51.2 box AP (paper; ablation tables are without relative positions [from memory]).
Not measured here yet.
Command, on each of 8 machines with 8 GPUs:
    python train_net.py --config-file projects/ablation/neck_sfp_b.py --num-gpus 8 \
        --num-machines 8 --machine-rank RANK --dist-url tcp://FIRST_MACHINE:PORT
"""

from ._base_b import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

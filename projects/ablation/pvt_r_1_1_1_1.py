# SPDX-License-Identifier: Apache-2.0
"""PVT's R per stage: 1, 1, 1, 1; RetinaNet on PVT-Small.

None: plain attention in every stage.

Source: PVT, arXiv 2102.12122, section 3.3 (spatial reduction by R); the paper compares no
    other R.
Published: nothing. Not measured here yet.
Weights: the released ones hold kernels of the paper's R. All rows start at random ones, so that
    they compare with each other; the row 8, 4, 2, 1 is pvt_scratch.
Cost: attention of 53760 tokens with each other at 800 x 1344; count it before it is run:
    vitdet complexity ablation/pvt_r_1_1_1_1 --no-measure
Command:
    python train_net.py --config-file projects/ablation/pvt_r_1_1_1_1.py --num-gpus 8
"""

from .pvt_scratch import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.sr_ratios = [1, 1, 1, 1]

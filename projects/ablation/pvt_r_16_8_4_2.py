# SPDX-License-Identifier: Apache-2.0
"""PVT's R per stage: 16, 8, 4, 2; RetinaNet on PVT-Small.

Twice the reduction of the paper's models in every stage.

Source: PVT, arXiv 2102.12122, section 3.3 (spatial reduction by R); the paper compares no
    other R.
Published: nothing. Not measured here yet.
Weights: the released ones hold kernels of the paper's R. All rows start at random ones, so that
    they compare with each other; the row 8, 4, 2, 1 is pvt_scratch.
Command:
    python train_net.py --config-file projects/ablation/pvt_r_16_8_4_2.py --num-gpus 8
"""

from .pvt_scratch import data, dataloader, lr_multiplier, model, optimizer, train

__all__ = ["data", "dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.bottom_up.sr_ratios = [16, 8, 4, 2]

# SPDX-License-Identifier: Apache-2.0
"""The learning rate over 12 epochs of COCO, "1x", at batch 16.

117266 images with objects / 16 = 7330 iterations per epoch, rounded up; 12 epochs are 87960. Steps
of 0.1 after 8 and 11 epochs, after 500 iterations of linear warm-up from a thousandth. (Detectron2
calls 90000 iterations with other steps 1x.) All are fractions of the run: a recipe with another
`train.max_iter` has the same curve over its own length.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

_EPOCH = 7330

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[8 * _EPOCH, 11 * _EPOCH],
        num_updates=12 * _EPOCH,
    ),
    warmup_length=500 / (12 * _EPOCH),
    warmup_factor=0.001,
)

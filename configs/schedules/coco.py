# SPDX-License-Identifier: Apache-2.0
"""The learning rate over 100 epochs of COCO at batch 64.

184375 iterations * 64 images / 118000 images per epoch = 100 epochs. Steps of 0.1 at 8/9 and 26/27
of them, after 250 iterations of linear warm-up. All are fractions of the run: a recipe with another
`train.max_iter` has the same curve over its own length.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

_ITERATIONS = 184375

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[163889, 177546],
        num_updates=_ITERATIONS,
    ),
    warmup_length=250 / _ITERATIONS,
    warmup_factor=0.001,
)

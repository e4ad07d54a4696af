# SPDX-License-Identifier: Apache-2.0
"""The learning rate over 100 epochs of LVIS at batch 64; a delta of coco.

156250 iterations * 64 images / 100000 images per epoch = 100 epochs, counted without the images
that are repeated. Steps at 8/9 and 26/27 of them, after 250 iterations of linear warm-up.
"""

from .coco import lr_multiplier

__all__ = ["lr_multiplier"]

_ITERATIONS = 156250

lr_multiplier.scheduler.update(milestones=[138889, 150463], num_updates=_ITERATIONS)
lr_multiplier.warmup_length = 250 / _ITERATIONS

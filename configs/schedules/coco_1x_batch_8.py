# SPDX-License-Identifier: Apache-2.0
"""The learning rate over 12 epochs of COCO at batch 8; a delta of coco_1x.

Twice the iterations, 175920, with the same curve; the warm-up stays 500 iterations.
"""

from .coco_1x import lr_multiplier

__all__ = ["lr_multiplier"]

lr_multiplier.warmup_length = lr_multiplier.warmup_length / 2

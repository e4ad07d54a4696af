# SPDX-License-Identifier: Apache-2.0
"""Schedules in units of 12 COCO epochs. Values of Detectron2's ``common/coco_schedule.py``."""

from __future__ import annotations

from detectron2.config import LazyCall
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig

_STEPS = 90000  # of the unit, at 16 images each
_WARMUP_STEPS = 1000


def default_X_scheduler(num_X: float) -> DictConfig:  # noqa: N802  (Detectron2's name)
    """Describe the multiplier of the learning rate: warm-up, then two steps down near the end.

    Args:
        num_X: length in units.
    """
    steps = num_X * _STEPS
    # Long schedules keep the last two phases as long as those of the unit (arXiv 1811.08883).
    milestones = [60000, 80000, 90000] if num_X <= 2 else [steps - 60000, steps - 20000, steps]
    return LazyCall(WarmupParamScheduler)(
        scheduler=LazyCall(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=milestones),
        warmup_length=_WARMUP_STEPS / steps,
        warmup_method="linear",
        warmup_factor=0.001,
    )


lr_multiplier_1x = default_X_scheduler(1)
lr_multiplier_2x = default_X_scheduler(2)
lr_multiplier_3x = default_X_scheduler(3)
lr_multiplier_6x = default_X_scheduler(6)
lr_multiplier_9x = default_X_scheduler(9)

# SPDX-License-Identifier: Apache-2.0
"""Optimizer groups and learning-rate schedules."""

from __future__ import annotations

from detectron2.solver.build import (
    build_lr_scheduler,
    build_optimizer,
    get_default_optimizer_params,
)
from detectron2.solver.lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler
from detectron2.solver.warmup import WarmupCosineLR, WarmupMultiStepLR

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "LRMultiplier",
    "LRScheduler",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "WarmupParamScheduler",
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
]

__getattr__ = absent_attribute(__name__)

# SPDX-License-Identifier: Apache-2.0
"""Optimizer groups and learning-rate schedules."""

from __future__ import annotations

from detectron2.solver.build import get_default_optimizer_params
from detectron2.solver.lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "LRMultiplier",
    "LRScheduler",
    "WarmupParamScheduler",
    "get_default_optimizer_params",
]

__getattr__ = absent_attribute(__name__)

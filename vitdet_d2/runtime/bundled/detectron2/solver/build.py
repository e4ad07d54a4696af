# SPDX-License-Identifier: Apache-2.0
"""Everything that makes optimizers and schedules, under one name."""

from __future__ import annotations

from detectron2.solver.from_cfg import build_lr_scheduler, build_optimizer
from detectron2.solver.gradient_clipping import maybe_add_gradient_clipping
from detectron2.solver.parameter_groups import (
    _expand_param_groups,  # noqa: F401  (asked for here)
    get_default_optimizer_params,
    reduce_param_groups,
)

__all__ = [
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
    "maybe_add_gradient_clipping",
    "reduce_param_groups",
]

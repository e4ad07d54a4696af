# SPDX-License-Identifier: Apache-2.0
"""The optimizer and the schedule that the keys below ``SOLVER`` describe.

Source: behaviour of detectron2 ``solver/build.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from detectron2.solver.gradient_clipping import maybe_add_gradient_clipping
from detectron2.solver.lr_scheduler import LRMultiplier, WarmupParamScheduler
from detectron2.solver.parameter_groups import get_default_optimizer_params
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

logger = logging.getLogger(__name__)


def build_optimizer(cfg: Any, model: nn.Module) -> torch.optim.Optimizer:
    """Build SGD with momentum.

    Args:
        cfg: the yacs configuration.
        model: its trainable parameters are optimized.
    """
    node = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=node.BASE_LR,
        weight_decay_norm=node.WEIGHT_DECAY_NORM,
        bias_lr_factor=node.BIAS_LR_FACTOR,
        weight_decay_bias=node.WEIGHT_DECAY_BIAS,
    )
    optimizer = torch.optim.SGD(
        groups,
        lr=node.BASE_LR,
        momentum=node.MOMENTUM,
        nesterov=node.NESTEROV,
        weight_decay=node.WEIGHT_DECAY,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def _multi_step(node: Any) -> ParamScheduler:
    steps = [step for step in node.STEPS if step <= node.MAX_ITER]
    if len(steps) < len(node.STEPS):
        logger.warning(
            "SOLVER.STEPS %s: those after SOLVER.MAX_ITER = %d have no effect",
            tuple(node.STEPS),
            node.MAX_ITER,
        )
    return MultiStepParamScheduler(
        values=[node.GAMMA**k for k in range(len(steps) + 1)],
        milestones=steps,
        num_updates=node.MAX_ITER,
    )


def _cosine(node: Any) -> ParamScheduler:
    end = node.BASE_LR_END / node.BASE_LR
    if not 0.0 <= end <= 1.0:
        raise ValueError(
            f"SOLVER.BASE_LR_END: expected 0 to SOLVER.BASE_LR = {node.BASE_LR}, got "
            f"{node.BASE_LR_END}"
        )
    return CosineParamScheduler(1, end)


def _equal_steps(node: Any) -> ParamScheduler:
    return StepWithFixedGammaParamScheduler(
        base_value=1.0, gamma=node.GAMMA, num_decays=node.NUM_DECAYS, num_updates=node.MAX_ITER
    )


_SCHEDULES: dict[str, Callable[[Any], ParamScheduler]] = {
    "WarmupMultiStepLR": _multi_step,
    "WarmupCosineLR": _cosine,
    "WarmupStepWithFixedGammaLR": _equal_steps,
}


def build_lr_scheduler(cfg: Any, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """Build the schedule ``SOLVER.LR_SCHEDULER_NAME`` with its warm-up.

    Args:
        cfg: the yacs configuration.
        optimizer: its groups get the rates of the first iteration.

    Raises:
        ValueError: an unknown name, or an end of the cosine beyond its beginning.
    """
    node = cfg.SOLVER
    name = node.LR_SCHEDULER_NAME
    if name not in _SCHEDULES:
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME: expected one of {', '.join(_SCHEDULES)}, got {name!r}"
        )
    schedule = WarmupParamScheduler(
        _SCHEDULES[name](node),
        node.WARMUP_FACTOR,
        min(node.WARMUP_ITERS / node.MAX_ITER, 1.0),
        node.WARMUP_METHOD,
        node.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=node.MAX_ITER)

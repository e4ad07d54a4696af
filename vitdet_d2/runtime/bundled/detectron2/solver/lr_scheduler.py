# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules as multipliers of each group's own rate.

A schedule is a fvcore ``ParamScheduler``: a function of the position in training, in [0, 1].

Source: the behaviour of detectron2 ``solver/lr_scheduler.py``; the warm-up of "Accurate, Large
Minibatch SGD", arXiv 1706.02677, section 2.2.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.solver.warmup import WarmupCosineLR, WarmupMultiStepLR
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

__all__ = [
    "LRMultiplier",
    "LRScheduler",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "WarmupParamScheduler",
]


class WarmupParamScheduler(CompositeParamScheduler):
    """Another schedule with a warm-up at its beginning."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        """Join the two.

        Args:
            scheduler: the schedule after the warm-up.
            warmup_factor: first value, as a fraction of the schedule's own first value.
            warmup_length: share of training that the warm-up takes, in [0, 1].
            warmup_method: ``linear``, up to where the schedule goes on, or ``constant``.
            rescale_interval: whether the schedule starts at its beginning after the warm-up, and
                is squeezed into the rest; otherwise its first part is skipped.

        Raises:
            ValueError: another method.
        """
        start = warmup_factor * scheduler(0.0)
        if warmup_method == "constant":
            warmup: ParamScheduler = ConstantParamScheduler(start)
        elif warmup_method == "linear":
            end = scheduler(0.0 if rescale_interval else warmup_length)
            warmup = LinearParamScheduler(start, end)
        else:
            raise ValueError(f"warmup_method: expected linear or constant, got {warmup_method!r}")
        super().__init__(
            [warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Set every group's learning rate to its first value times one schedule's value."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        multiplier: ParamScheduler,
        max_iter: int,
        last_iter: int = -1,
    ) -> None:
        """Set the rates of the iteration after ``last_iter``.

        Args:
            optimizer: its groups are changed at every ``step()``.
            multiplier: the schedule.
            max_iter: number of training iterations.
            last_iter: the last iteration done; -1 starts anew.

        Raises:
            TypeError: ``multiplier`` is no fvcore ``ParamScheduler``.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise TypeError(
                f"multiplier: expected a fvcore ParamScheduler, got {type(multiplier).__name__}"
            )
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """Return first rates and iteration; the schedule itself belongs to the recipe."""
        return {
            "base_lrs": [float(lr) for lr in self.base_lrs],
            "last_epoch": int(self.last_epoch),
        }

    def get_lr(self) -> list[float | Tensor]:
        """Return each group's rate at the current iteration."""
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * factor for base_lr in self.base_lrs]

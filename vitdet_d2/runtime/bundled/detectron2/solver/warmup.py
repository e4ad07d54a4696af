# SPDX-License-Identifier: Apache-2.0
"""Schedules with a warm-up as classes of their own, as older projects use them.

`LRMultiplier` with `WarmupParamScheduler` is what the builders use now.

Source: behaviour of detectron2 ``solver/lr_scheduler.py``.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

logger = logging.getLogger(__name__)


class _WarmupLR(LRScheduler):
    """A factor of the iteration, times the warm-up's."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_factor: float,
        warmup_iters: int,
        warmup_method: Literal["linear", "constant"],
        last_epoch: int,
    ) -> None:
        if warmup_method not in ("linear", "constant"):
            raise ValueError(f"warmup_method: expected linear or constant, got {warmup_method!r}")
        logger.warning(
            "%s is obsolete; LRMultiplier takes any schedule of fvcore", type(self).__name__
        )
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    def _factor(self, iteration: int) -> float:
        raise NotImplementedError

    def _warmup(self, iteration: int) -> float:
        if iteration >= self.warmup_iters:
            return 1.0
        done = iteration / self.warmup_iters if self.warmup_method == "linear" else 0.0
        return self.warmup_factor * (1 - done) + done

    def get_lr(self) -> list[float | Tensor]:
        """Return each group's rate at the current iteration (``last_epoch``)."""
        factor = self._warmup(self.last_epoch) * self._factor(self.last_epoch)
        return [base_lr * factor for base_lr in self.base_lrs]


class WarmupMultiStepLR(_WarmupLR):
    """Multiply the rate by ``gamma`` at every milestone."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: Literal["linear", "constant"] = "linear",
        last_epoch: int = -1,
    ) -> None:
        """Set the rates of the iteration after ``last_epoch``.

        Args:
            optimizer: its groups are changed at every ``step()``.
            milestones: iterations, in order.
            gamma: the factor.
            warmup_factor: of the rate at iteration 0.
            warmup_iters: length of the warm-up.
            warmup_method: a line up to 1, or the factor itself.
            last_epoch: the last iteration done; -1 starts anew.

        Raises:
            ValueError: milestones out of order, or an unknown method.
        """
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones: expected growing iterations, got {list(milestones)}")
        self.milestones = list(milestones)
        self.gamma = gamma
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _factor(self, iteration: int) -> float:
        return self.gamma ** bisect_right(self.milestones, iteration)


class WarmupCosineLR(_WarmupLR):
    """Let the rate fall to zero along half a cosine."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: Literal["linear", "constant"] = "linear",
        last_epoch: int = -1,
    ) -> None:
        """Set the rates of the iteration after ``last_epoch``.

        Args:
            optimizer: its groups are changed at every ``step()``.
            max_iters: where the rate is zero.
            warmup_factor: of the rate at iteration 0.
            warmup_iters: length of the warm-up, which multiplies the cosine.
            warmup_method: a line up to 1, or the factor itself.
            last_epoch: the last iteration done; -1 starts anew.

        Raises:
            ValueError: an unknown method.
        """
        self.max_iters = max_iters
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _factor(self, iteration: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * iteration / self.max_iters))

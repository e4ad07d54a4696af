# SPDX-License-Identifier: Apache-2.0
"""Averages the weights after every step."""

from __future__ import annotations

from detectron2.engine import HookBase

from vitdet_d2.engine.ema import WeightAverage


class AverageHook(HookBase):
    """Updates the average; stands before the hooks that save or evaluate. On every rank."""

    def __init__(self, average: WeightAverage) -> None:
        """Remember the average.

        Args:
            average: of the weights that are trained.
        """
        self._average = average

    def after_step(self) -> None:
        """Take in the weights of this step."""
        self._average.update()

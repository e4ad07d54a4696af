# SPDX-License-Identifier: Apache-2.0
"""Evaluates while training, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm


class EvaluationHook(HookBase):
    """Evaluates every `period` iterations and once training has succeeded; on every rank.

    Unlike Detectron2's `EvalHook` it does not evaluate after a failure in the last iteration.
    """

    def __init__(self, period: int, evaluate: Callable[[], Mapping[str, Any]]) -> None:
        """Remember the function.

        Args:
            period: in iterations; 0 for only at the end.
            evaluate: returns a nested dict of numbers, empty on all but the main process.
        """
        self._period = period
        self._evaluate = evaluate

    def after_step(self) -> None:
        """Evaluate when a period is complete; the last one is left to `after_train`."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._run()

    def after_train(self) -> None:
        """Evaluate the final weights."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._run()

    def _run(self) -> None:
        numbers = {k: float(v) for k, v in flatten_results_dict(self._evaluate()).items()}
        for name, value in numbers.items():
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        comm.synchronize()

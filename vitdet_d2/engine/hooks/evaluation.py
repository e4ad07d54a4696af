# SPDX-License-Identifier: Apache-2.0
"""Evaluates while training, and at its end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from vitdet_d2.atomic_write import atomic_write


class EvaluationHook(HookBase):
    """Evaluates every `period` iterations and once training has succeeded; on every rank.

    Checkpoints are saved before an evaluation. A run that continues from such a checkpoint first
    makes up for the evaluation, unless the record says that it was completed. Unlike Detectron2's
    `EvalHook` this one does not evaluate after a failure in the last iteration.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], Mapping[str, Any]],
        *,
        record: Path,
        written: Collection[str] = (),
        consider: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> None:
        """Remember the function.

        Args:
            period: in iterations; 0 for only at the end.
            evaluate: returns a nested dict of numbers, empty on all but the main process.
            record: file that keeps the numbers of the latest evaluation and its iteration.
            written: names of the metrics that a resumed run's files already hold for the iteration
                before its first.
            consider: told the numbers, NaN included, and the iteration after which the weights are
                as they were evaluated; called on every rank.
        """
        self._period = period
        self._evaluate = evaluate
        self._record = record
        self._written = written
        self._consider = consider

    def before_train(self) -> None:
        """Complete what an interrupted run owes for its last iteration."""
        done = self.trainer.start_iter
        if done == 0 or done >= self.trainer.max_iter or not self._is_due(done):
            return
        numbers: Mapping[str, float] | None = comm.all_gather(self._recorded(done - 1))[0]
        if numbers is None:
            numbers = self._run(done - 1)
        elif self._consider is not None:  # the run may have ended before that
            self._consider(numbers if comm.is_main_process() else {}, done - 1)
        self._put({k: v for k, v in numbers.items() if k not in self._written}, done - 1)

    def after_step(self) -> None:
        """Evaluate when a period is complete; the last one is left to `after_train`."""
        done = self.trainer.iter + 1
        if self._is_due(done) and done != self.trainer.max_iter:
            self._put(self._run(self.trainer.iter), self.trainer.iter)

    def after_train(self) -> None:
        """Evaluate the final weights."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._put(self._run(self.trainer.iter), self.trainer.iter)

    def _is_due(self, done: int) -> bool:
        return self._period > 0 and done % self._period == 0

    def _run(self, iteration: int) -> dict[str, float]:
        """Evaluate, keep the numbers, and return them, NaN (a class without ground truth) too."""
        numbers = {k: float(v) for k, v in flatten_results_dict(self._evaluate()).items()}
        finite = {k: v for k, v in numbers.items() if math.isfinite(v)}
        if comm.is_main_process():
            self._record.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._record) as file:
                # NaN is no JSON, but its metric is one that the evaluator has.
                undefined = [name for name in numbers if name not in finite]
                content = {"iteration": iteration, "metrics": finite, "undefined": undefined}
                file.write(json.dumps(content).encode("ascii"))
        comm.synchronize()
        if self._consider is not None:
            self._consider(numbers, min(iteration, self.trainer.max_iter - 1))
        return numbers

    def _recorded(self, iteration: int) -> dict[str, float] | None:
        """The numbers of this iteration's evaluation, if it was completed."""
        try:
            content = json.loads(self._record.read_bytes())
            if content["iteration"] != iteration:
                return None
            return {**content["metrics"], **dict.fromkeys(content["undefined"], math.nan)}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _put(self, numbers: Mapping[str, float], iteration: int) -> None:
        for name, value in numbers.items():
            if not math.isfinite(value):
                continue
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False, cur_iter=iteration)

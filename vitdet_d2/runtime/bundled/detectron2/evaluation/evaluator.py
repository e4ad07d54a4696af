# SPDX-License-Identifier: Apache-2.0
"""Run a model over a data set, time it, and hand every output to an evaluator.

Vocabulary: an *iteration* is one batch of the loader; *compute* is the model call (with the
device synchronised after it), *data* the wait for the loader, *eval* the evaluator's `process`.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

_WARMUP_ITERATIONS = 5  # allocator, kernel selection and loader start-up spoil the first ones
_SLOW_COMPUTE_SECONDS = 5.0  # a slower model reports at once instead of after the warm-up
_LOG_PERIOD_SECONDS = 5.0


class DatasetEvaluator:
    """Accumulates (input, output) pairs of one data set and turns them into metrics.

    The order of calls is ``reset()``, any number of ``process(...)``, ``evaluate()``.
    """

    def reset(self) -> None:
        """Forget everything that was accumulated."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take the outputs of one batch.

        Args:
            inputs: what the model was called with, one dictionary per image.
            outputs: what ``model(inputs)`` returned, in the same order.
        """

    def evaluate(self) -> dict[str, Any] | None:
        """Return ``{task: {metric: value}}``, or None (or empty) outside the main process."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators that see the same outputs."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        """Combine evaluators.

        Args:
            evaluators: called in this order; their result keys must be disjoint.
        """
        self._evaluators = list(evaluators)

    def reset(self) -> None:
        """Reset every evaluator."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Pass one batch to every evaluator."""
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """Merge the results of all evaluators; empty outside the main process.

        Raises:
            ValueError: two evaluators report under the same key.
        """
        merged: dict[str, Any] = {}
        for evaluator in self._evaluators:
            results = evaluator.evaluate()
            if results is None or not is_main_process():
                continue
            clash = merged.keys() & results.keys()
            if clash:
                raise ValueError(
                    f"{type(evaluator).__name__} reports {sorted(clash)}, which an earlier "
                    "evaluator already reported; evaluators used together need distinct keys"
                )
            merged.update(results)
        return merged


@dataclass
class _Timing:
    """Seconds spent since the warm-up ended, by kind of work."""

    start: float
    data: float = 0.0
    compute: float = 0.0
    evaluation: float = 0.0

    def progress(self, done: int, counted: int, total: int) -> str:
        """Describe the speed so far; ``counted`` of the ``done`` iterations were timed."""
        elapsed = (time.perf_counter() - self.start) / counted
        eta = datetime.timedelta(seconds=int(elapsed * (total - done)))
        return (
            f"Inference done {done}/{total}. "
            f"Dataloading: {self.data / counted:.4f} s/iter. "
            f"Inference: {self.compute / counted:.4f} s/iter. "
            f"Eval: {self.evaluation / counted:.4f} s/iter. "
            f"Total: {elapsed:.4f} s/iter. ETA={eta}"
        )

    def log_totals(self, logger: logging.Logger, counted: int) -> None:
        """Log the two summary lines, in the wording that log parsers of Detectron2 expect."""
        devices = get_world_size()
        wall = time.perf_counter() - self.start
        compute = datetime.timedelta(seconds=int(self.compute))
        for name, shown, seconds in (
            ("time", datetime.timedelta(seconds=wall), wall),
            ("pure compute time", compute, self.compute),
        ):
            logger.info(
                f"Total inference {name}: {shown} "
                f"({seconds / counted:.6f} s / iter per device, on {devices} devices)"
            )


def _no_op() -> None:
    """Stand in for a callback that was not given."""


def _as_evaluator(
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
) -> DatasetEvaluator:
    if evaluator is None:
        return DatasetEvaluators([])
    if isinstance(evaluator, (list, tuple)):
        return DatasetEvaluators(evaluator)
    return evaluator


def _run(
    model: Callable[[Any], Any],
    data_loader: Any,
    evaluator: DatasetEvaluator,
    callbacks: Mapping[str, Callable[[], Any]],
) -> tuple[_Timing, int]:
    """Feed every batch through model and evaluator; return the timing and its iterations."""
    total = len(data_loader)
    warmup = max(0, min(_WARMUP_ITERATIONS, total - 1))
    before = callbacks.get("before_inference", _no_op)
    after = callbacks.get("after_inference", _no_op)
    timing = _Timing(start=time.perf_counter())
    mark = timing.start
    counted = 0
    for index, inputs in enumerate(data_loader):
        now = time.perf_counter()
        if index == warmup:
            timing, counted, mark = _Timing(start=now), 0, now
        timing.data += now - mark

        mark = time.perf_counter()
        before()
        outputs = model(inputs)
        after()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        timing.compute += now - mark

        evaluator.process(inputs, outputs)
        mark = time.perf_counter()
        timing.evaluation += mark - now

        counted += 1
        if index >= 2 * warmup or timing.compute / counted > _SLOW_COMPUTE_SECONDS:
            message = timing.progress(index + 1, counted, total)
            log_every_n_seconds(logging.INFO, message, n=_LOG_PERIOD_SECONDS)
    return timing, counted


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Any,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, Any]:
    """Run a model over a whole data set without gradients, and evaluate its outputs.

    Args:
        model: called with each element of ``data_loader``. An ``nn.Module`` is in eval mode for
            the duration and gets its mode back, also after an error.
        data_loader: an iterable with a length.
        evaluator: one or several evaluators; None only measures the speed.
        callbacks: functions without arguments under ``"on_start"``, ``"before_inference"``,
            ``"after_inference"``, ``"on_end"``.

    Returns:
        What ``evaluator.evaluate()`` returned; an empty dictionary in place of None.

    Source: Detectron2 ``evaluation/evaluator.py``; the same log lines.
    """
    logger = logging.getLogger(__name__)
    callbacks = callbacks or {}
    total = len(data_loader)
    logger.info(f"Start inference on {total} batches")
    evaluator = _as_evaluator(evaluator)
    evaluator.reset()
    mode = inference_context(model) if isinstance(model, nn.Module) else nullcontext()
    with mode, torch.no_grad():
        callbacks.get("on_start", _no_op)()
        timing, counted = _run(model, data_loader, evaluator, callbacks)
        callbacks.get("on_end", _no_op)()
    # Before the evaluator synchronises: this process's own time, without waiting for others.
    timing.log_totals(logger, max(counted, 1))
    return evaluator.evaluate() or {}


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode inside the ``with`` block.

    Afterwards, also after an error, every submodule has its own earlier mode again, so that
    parts which were frozen in eval mode stay there.

    Args:
        model: ``eval()`` and ``train(mode)`` are called on it, so a wrapper may override them.
    """
    was_training = model.training
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        for module, mode in modes:
            module.training = mode

# SPDX-License-Identifier: Apache-2.0
"""Hooks that most training loops need.

Source: the behaviour of Detectron2's `detectron2/engine/hooks.py` (commit 02b5c4e).
"""

from __future__ import annotations

import datetime
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.engine.train_loop import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from torch.optim.lr_scheduler import LRScheduler as _TorchScheduler

from vitdet_d2.runtime.absent import absent_attribute

__getattr__ = absent_attribute(__name__)

__all__ = [
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
]

logger = logging.getLogger(__name__)

_Callback = Callable[[Any], None]


class CallbackHook(HookBase):
    """A hook made of functions, each of which gets the trainer."""

    def __init__(
        self,
        *,
        before_train: _Callback | None = None,
        after_train: _Callback | None = None,
        before_step: _Callback | None = None,
        after_step: _Callback | None = None,
    ) -> None:
        self._before_train = before_train
        self._after_train = after_train
        self._before_step = before_step
        self._after_step = after_step

    def _call(self, callback: _Callback | None) -> None:
        if callback is not None:
            callback(self.trainer)

    def before_train(self) -> None:
        """Call the function given for this point."""
        self._call(self._before_train)

    def after_train(self) -> None:
        """Call the function given for this point, then let all of them go."""
        self._call(self._after_train)
        # Closures often hold the trainer, which holds this hook.
        self._before_train = self._after_train = self._before_step = self._after_step = None

    def before_step(self) -> None:
        """Call the function given for this point."""
        self._call(self._before_step)

    def after_step(self) -> None:
        """Call the function given for this point."""
        self._call(self._after_step)


class IterationTimer(HookBase):
    """Measures each iteration as ``time`` (seconds), and the whole run; register it first."""

    def __init__(self, warmup_iter: int = 3) -> None:
        """Prepare the timers.

        Args:
            warmup_iter: so many first iterations are left out of the measurement.
        """
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._steps_timer = Timer()
        self._start_time = time.perf_counter()

    def before_train(self) -> None:
        """Start the clock of the run."""
        self._restart()
        self._steps_timer.pause()

    def _restart(self) -> None:
        self._start_time = time.perf_counter()
        self._steps_timer.reset()

    def before_step(self) -> None:
        """Start the clock of the iteration."""
        self._step_timer.reset()
        self._steps_timer.resume()

    def after_step(self) -> None:
        """Store the iteration's time once warm."""
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._restart()
        self._steps_timer.pause()

    def after_train(self) -> None:
        """Log the mean iteration time, the total, and how much of it hooks took."""
        total = time.perf_counter() - self._start_time
        in_steps = self._steps_timer.seconds()
        count = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if count > 0 and in_steps > 0:
            logger.info(
                "Overall training speed: %d iterations in %s (%.4f s / it)",
                count,
                _duration(in_steps),
                in_steps / count,
            )
        logger.info(
            "Total training time: %s (%s on hooks)", _duration(total), _duration(total - in_steps)
        )


def _duration(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=int(seconds))


class PeriodicWriter(HookBase):
    """Lets writers write every ``period`` iterations, and at the end."""

    def __init__(self, writers: Sequence[EventWriter], period: int = 20) -> None:
        """Remember the writers.

        Args:
            writers: called in this order.
            period: in iterations.

        Raises:
            TypeError: an entry is not an `EventWriter`.
        """
        for writer in writers:
            if not isinstance(writer, EventWriter):
                raise TypeError(f"writers must be EventWriters, got {type(writer).__name__}")
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        """Write when the period or the run is complete."""
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        """Write what other hooks left at the end, and close."""
        for writer in self._writers:
            writer.write()
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's periodic checkpointer as a hook; it saves what the checkpointer itself holds."""

    def before_train(self) -> None:
        """Learn where training ends."""
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        """Save when the period or the run is complete."""
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Keeps the weights of the best evaluation so far; register it after the `EvalHook`."""

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        """Remember what to watch.

        Args:
            eval_period: that of the `EvalHook`.
            checkpointer: saves the weights.
            val_metric: name of the metric, for example "bbox/AP50".
            mode: "max" or "min", which value is better.
            file_prefix: name of the saved file.

        Raises:
            ValueError: `mode` is neither.
        """
        if mode not in ("max", "min"):
            raise ValueError(f"mode: expected 'max' or 'min', got {mode!r}")
        self._sign = 1.0 if mode == "max" else -1.0
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def after_step(self) -> None:
        """Look at the metric after a periodic evaluation."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._update()

    def after_train(self) -> None:
        """Look at the metric after the last evaluation."""
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._update()

    def _update(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning("No metric '%s': no best checkpoint is kept", self._val_metric)
            return
        value, iteration = latest
        best = self.best_metric
        improved = best is None or self._sign * value > self._sign * best
        if not math.isfinite(value) or not improved:
            logger.info("%s %.5f is not better than %s", self._val_metric, value, best)
            return
        self.best_metric, self.best_iter = value, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        logger.info("Saved the best so far: %s %.5f (was %s)", self._val_metric, value, best)


class LRScheduler(HookBase):
    """Reports the learning rate and advances the schedule after every iteration."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: _TorchScheduler | ParamScheduler | None = None,
    ) -> None:
        """Remember the parts; what is None is taken from the trainer.

        Args:
            optimizer: whose learning rate is reported.
            scheduler: a PyTorch scheduler, or a fvcore one, which multiplies the base rates.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._reported_group = 0

    @property
    def scheduler(self) -> Any:
        """The schedule in use."""
        return self._scheduler or self.trainer.scheduler  # type: ignore[attr-defined]

    def before_train(self) -> None:
        """Bind a fvcore schedule to the optimizer at the trainer's iteration."""
        optimizer = self._optimizer or self.trainer.optimizer  # type: ignore[attr-defined]
        self._optimizer = optimizer
        if isinstance(self.scheduler, ParamScheduler):
            trainer = self.trainer
            self._scheduler = LRMultiplier(
                optimizer, self.scheduler, trainer.max_iter, last_iter=trainer.iter - 1
            )
        self._reported_group = self.get_best_param_group_id(optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """Index of the group to report: the largest, or where all hold one, the usual rate's."""
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        """Store this iteration's rate, then set the next one's."""
        assert self._optimizer is not None, "before_train was not called"
        rate = self._optimizer.param_groups[self._reported_group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The PyTorch scheduler's state, once there is one."""
        if isinstance(self.scheduler, _TorchScheduler):
            return self.scheduler.state_dict()
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a PyTorch scheduler; a fvcore one follows from the iteration."""
        if isinstance(self.scheduler, _TorchScheduler):
            self.scheduler.load_state_dict(dict(state_dict))


class EvalHook(HookBase):
    """Evaluates every ``eval_period`` iterations and at the end; on every rank, or on none."""

    def __init__(
        self,
        eval_period: int,
        eval_function: Callable[[], Mapping[str, Any] | None],
        eval_after_train: bool = True,
    ) -> None:
        """Remember the function.

        Args:
            eval_period: in iterations; 0 for only at the end.
            eval_function: returns a nested dict of numbers, or None.
            eval_after_train: whether to evaluate at the end.
        """
        self._period = eval_period
        self._func: Callable[[], Mapping[str, Any] | None] | None = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        assert self._func is not None, "the run is over"
        results = self._func()
        if results:
            if not isinstance(results, Mapping):
                raise TypeError(f"eval_function must return a dict, got {type(results).__name__}")
            for name, value in _numbers(results).items():
                self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        # Ranks take different times; the next iteration starts together.
        comm.synchronize()

    def after_step(self) -> None:
        """Evaluate when a period is complete; the last one is left to `after_train`."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        """Evaluate once more, unless training stopped early; let the function go."""
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        # Usually a closure over the trainer, which holds this hook.
        self._func = None


def _numbers(results: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in flatten_results_dict(results).items():
        try:
            flat[name] = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"eval_function must return a nested dict of numbers, got {name}: {value!r}"
            ) from error
    return flat

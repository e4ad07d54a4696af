# SPDX-License-Identifier: Apache-2.0
"""The iterative training loop, its hooks, and the plain and mixed-precision steps.

Source: the behaviour of Detectron2's `detectron2/engine/train_loop.py` (commit 02b5c4e).
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]

logger = logging.getLogger(__name__)


class HookBase:
    """Something that acts at fixed points of the loop; every method may be left out.

    A hook whose work takes time belongs into `after_step`, so that timers measure the step alone.
    """

    # A weak reference, set when the hook is registered.
    trainer: TrainerBase = cast("TrainerBase", None)

    def before_train(self) -> None:
        """Called once, before the first iteration."""

    def after_train(self) -> None:
        """Called once, after the last iteration or after a failure."""

    def before_step(self) -> None:
        """Called before each iteration."""

    def after_backward(self) -> None:
        """Called after the backward pass, before the optimizer's step."""

    def after_step(self) -> None:
        """Called after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """State to keep in checkpoints; empty for hooks without state."""
        return {}


class TrainerBase:
    """A loop with hooks; subclasses say what one step is.

    Attributes:
        iter: the current iteration; ``max_iter`` once training has succeeded.
        start_iter: the first iteration of this run.
        max_iter: the iteration at which training ends.
        storage: where metrics go while training runs.
    """

    max_iter: int
    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Append hooks, which run in this order; None entries are skipped.

        Raises:
            TypeError: an entry is not a `HookBase`.
        """
        for hook in hooks:
            if hook is None:
                continue
            if not isinstance(hook, HookBase):
                raise TypeError(f"hooks must be HookBase objects, got {type(hook).__name__}")
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter <= i < max_iter``."""
        logger.info("Starting training from iteration %d", start_iter)
        self.start_iter, self.max_iter = start_iter, max_iter
        self.iter = start_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                self._run_iterations()
            except Exception:
                logger.exception("Training ends with an error in iteration %d", self.iter)
                raise
            finally:
                self.after_train()

    def _run_iterations(self) -> None:
        for iteration in range(self.start_iter, self.max_iter):
            self.iter = iteration
            for part in (self.before_step, self.run_step, self.after_step):
                part()
        # Tells `after_train` that every iteration was done.
        self.iter += 1

    def before_train(self) -> None:
        """Call every hook's `before_train`."""
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        """Call every hook's `after_train`."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        """Bring the storage to this iteration, then call every hook's `before_step`."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        """Call every hook's `after_backward`."""
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        """Call every hook's `after_step`."""
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """Do one iteration.

        Raises:
            NotImplementedError: always; subclasses define it.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration, and the state of hooks that have one, by class name (first one wins)."""
        states: dict[str, Any] = {}
        for hook in self._hooks:
            state = hook.state_dict()
            if state:
                states.setdefault(type(hook).__qualname__, state)
        return {"iteration": self.iter, **({"hooks": states} if states else {})}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; state of an unknown hook is reported and dropped."""
        self.iter = state_dict["iteration"]
        by_name: dict[str, Any] = {}
        for hook in self._hooks:
            by_name.setdefault(type(hook).__qualname__, hook)
        for name, state in state_dict.get("hooks", {}).items():
            if name in by_name:
                by_name[name].load_state_dict(state)
            else:
                logger.warning("No hook '%s' here, its saved state is ignored", name)


def _total_loss(output: Tensor | dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to differentiate, and the named losses to report."""
    if isinstance(output, Tensor):
        return output, {"total_loss": output}
    return cast(Tensor, sum(output.values())), output


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one source of batches: forward, backward, step."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """Put the model into training mode and remember the parts.

        Args:
            model: maps a batch to a dict of losses, or to one loss.
            data_loader: yields batches without end.
            optimizer: updates the model's parameters.
            gather_metric_period: metrics are gathered over ranks every so many iterations.
            zero_grad_before_forward: clear gradients before the forward pass, not after it.
            async_write_metrics: write metrics in a thread.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self._data_loader_iter_obj: Iterator[Any] | None = None
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        # One thread, so that metrics are written in order.
        self.concurrent_executor = ThreadPoolExecutor(max_workers=1)

    def run_step(self) -> None:
        """Forward, backward, metrics, optimizer step."""
        data, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        with self._precision():
            loss, named = _total_loss(self.model(data))
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(loss)
        self.after_backward()
        if self.async_write_metrics:
            self.concurrent_executor.submit(self._write_metrics, named, data_time, iter=self.iter)
        else:
            self._write_metrics(named, data_time)
        self._optimizer_step()

    def _next_batch(self) -> tuple[Any, float]:
        """The next batch and the seconds it took."""
        assert self.model.training, f"{type(self).__name__}: the model is in evaluation mode"
        start = time.perf_counter()
        return next(self._data_loader_iter), time.perf_counter() - start

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _optimizer_step(self) -> None:
        self.optimizer.step()

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Any) -> None:
        """Drop the loader, then build its successor with ``data_loader_builder()``."""
        del self.data_loader
        self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def _write_metrics(
        self,
        loss_dict: Mapping[str, Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,
    ) -> None:
        current = self.iter if iter is None else iter
        if (current + 1) % self.gather_metric_period:
            return
        try:
            SimpleTrainer.write_metrics(loss_dict, data_time, current, prefix)
        except Exception:
            # In a thread nobody would see it otherwise.
            logger.exception("Exception in writing metrics:")
            raise

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, Tensor], data_time: float, cur_iter: int, prefix: str = ""
    ) -> None:
        """Average the losses over ranks and store them, with the slowest rank's data time.

        Raises:
            FloatingPointError: on the main process, when the averaged loss is not finite.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        mine = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        gathered = comm.gather((mine, data_time))
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(t for _, t in gathered), cur_iter=cur_iter)
        mean = {name: float(np.mean([losses[name] for losses, _ in gathered])) for name in mine}
        total = sum(mean.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"loss is not finite at iteration {cur_iter}: {mean}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(mean) > 1:
            for name, value in mean.items():
                storage.put_scalar(name, value, cur_iter=cur_iter)

    def state_dict(self) -> dict[str, Any]:
        """As the base class, with the optimizer's state."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As the base class, with the optimizer's state."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def after_train(self) -> None:
        """Call the hooks, then wait for the thread that writes metrics."""
        super().after_train()
        self.concurrent_executor.shutdown(wait=True)


class AMPTrainer(SimpleTrainer):
    """A `SimpleTrainer` whose forward pass runs under autocast, with scaled gradients.

    Works on the CPU too, where the scaler is switched off unless one is given.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """Remember the parts and the precision.

        Args:
            model: as in `SimpleTrainer`; one device per process.
            data_loader: as in `SimpleTrainer`.
            optimizer: as in `SimpleTrainer`.
            gather_metric_period: as in `SimpleTrainer`.
            zero_grad_before_forward: as in `SimpleTrainer`.
            grad_scaler: scales the loss; a new one by default.
            precision: what autocast computes in.
            log_grad_scaler: put the scale into the metrics.
            async_write_metrics: as in `SimpleTrainer`.

        Raises:
            ValueError: the model spans several devices in one process.
        """
        if isinstance(model, nn.DataParallel) or len(getattr(model, "device_ids", None) or []) > 1:
            raise ValueError("model: one device per process expected; use DistributedDataParallel")
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            async_write_metrics,
        )
        self._device_type = next(model.parameters()).device.type
        self.grad_scaler = grad_scaler or torch.amp.GradScaler(
            self._device_type, enabled=self._device_type != "cpu"
        )
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self._device_type, dtype=self.precision)

    def _backward(self, loss: Tensor) -> None:
        self.grad_scaler.scale(loss).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())

    def _optimizer_step(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """As the base class, with the scaler's state."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As the base class, with the scaler's state."""
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

# SPDX-License-Identifier: Apache-2.0
"""The training loop: one step in the given precision, with agreement of all ranks before it counts.

Vocabulary:
    iteration: one step of the optimizer.
    batch: what the loader yields; an iteration takes ``accumulate`` of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from vitdet_d2.engine import random_state
from vitdet_d2.engine.agreement import (
    Batch,
    NonFiniteError,
    Report,
    exchange,
    file_names,
    require_finite,
)
from vitdet_d2.engine.parallel import unsynchronised
from vitdet_d2.engine.sharded_tensors import clip, total_norm
from vitdet_d2.engine.stop_signals import StopRequest, held_back
from vitdet_d2.heads.late_scalars import LateScalars, collected

__all__ = ["NonFiniteError", "Trainer", "mean_losses"]


class Trainer(TrainerBase):
    """Forward, backward, agreement, step; hooks do the rest and never touch the random state."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Sequence[Mapping[str, Any]]],
        optimizer: torch.optim.Optimizer,
        *,
        autocast_dtype: torch.dtype | None = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        stop: StopRequest | None = None,
        accumulate: int = 1,
        max_grad_norm: float | None = None,
    ) -> None:
        """Put the model into training mode and remember the parts.

        Args:
            model: maps a batch to a dict of losses, or to one loss; wrapped for data parallelism
                where there are several processes.
            data_loader: yields batches without end.
            optimizer: updates the model's parameters.
            autocast_dtype: what the forward pass computes in; None: as the weights are.
            grad_scaler: scales the loss, for float16.
            stop: the flag that signals set.
            accumulate: batches per iteration; the losses of each count for their share.
            max_grad_norm: to what the norm of all gradients together, averaged over processes, is
                clipped; None: not at all.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.grad_scaler = grad_scaler
        self.stop_signum = 0
        self.last_checkpoint = "none yet"
        self._stop = stop or StopRequest()
        self._accumulate = accumulate
        self._max_grad_norm = max_grad_norm
        self._autocast_dtype = autocast_dtype
        self._device = next(model.parameters()).device
        self._batches: Iterator[Sequence[Mapping[str, Any]]] | None = None

    # ---------------------------------------------------------------- the loop

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter <= i < max_iter``; `iter` is `max_iter` after success."""
        self.start_iter, self.max_iter = start_iter, max_iter
        self.iter = start_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    for part in (self.before_step, self.run_step, self.after_step):
                        part()
                self.iter = max_iter
            finally:
                self._batches = None  # its workers end, before the last evaluation starts others
                self.after_train()

    def after_step(self) -> None:
        """Call the hooks; the generators then continue as if they had drawn nothing."""
        if comm.get_world_size() == 1:
            self.stop_signum = self._stop.signum
        with random_state.preserved():
            super().after_step()

    def after_train(self) -> None:
        """Call every hook even if one of them fails, so that files are closed."""
        self.storage.iter = self.iter
        with contextlib.ExitStack() as stack:
            for hook in reversed(self._hooks):
                stack.callback(hook.after_train)

    def run_step(self) -> None:
        """One iteration: the mean gradient of ``accumulate`` batches, and one step.

        Raises:
            NonFiniteError: on every rank, if a loss or gradient of any rank is not finite; on
                this one alone, if the model itself says so. The model and the optimizer are as
                they were before the step.
        """
        assert self.model.training, "the model was left in evaluation mode"
        self.optimizer.zero_grad()
        batches, data_time = [], 0.0
        with collected() as logged:
            for number in range(self._accumulate):
                start = time.perf_counter()
                batch = self._next_batch()
                data_time += time.perf_counter() - start
                # Ranks exchange gradients once, in the backward pass of the last batch.
                is_last = number == self._accumulate - 1
                with contextlib.nullcontext() if is_last else unsynchronised(self.model):
                    losses = self._backward(batch)
                batches.append(Batch(losses=losses, file_names=file_names(batch)))
        self.after_backward()
        self._accept_and_step(batches, data_time, logged)

    def _backward(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Add this batch's share to the gradients, and return its losses.

        Raises:
            NonFiniteError: the model itself found NaN or Inf.
        """
        try:
            losses = self._forward(batch)
        except FloatingPointError as error:  # of the RPN, which meets a divergence first
            raise NonFiniteError(
                f"{error}; at iteration {self.iter} on rank {comm.get_rank()}, images "
                f"{', '.join(file_names(batch))}. Stopped before the step; last good checkpoint: "
                f"{self.last_checkpoint}"
            ) from error
        # Upstream's order of summation, by which the total is bit-identical.
        total = cast(Tensor, sum(losses.values()))
        if self._accumulate > 1:
            total = total / self._accumulate
        (total if self.grad_scaler is None else self.grad_scaler.scale(total)).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _accept_and_step(
        self, batches: Sequence[Batch], data_time: float, logged: LateScalars
    ) -> None:
        """Update the weights, if every rank's losses and gradients are finite.

        The host waits for the device once, to read losses, norm and what the heads have logged.
        """
        losses = mean_losses(batches)
        norm = self._gradient_norm()
        reports, numbers = exchange(
            list(losses.values()),
            norm,
            data_time=data_time,
            signum=self._stop.signum,
            own=logged.values(),
        )
        self.stop_signum = max(report.signum for report in reports)
        require_finite(
            reports,
            list(losses),
            batches,
            iteration=self.iter,
            learning_rate=max(float(group["lr"]) for group in self.optimizer.param_groups),
            last_checkpoint=self.last_checkpoint,
        )
        logged.put(self.storage, numbers)
        self._put_metrics(list(losses), reports, data_time)
        if self._max_grad_norm is not None:
            # Beyond the range of numbers (-1) nothing is left of a gradient, not its reverse.
            norm = torch.where(norm < 0, torch.inf, norm)
            clip(self.model.parameters(), self._max_grad_norm, norm)
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def _gradient_norm(self) -> Tensor:
        """The norm over all parameters, of gradients without the scaler's factor.

        With a scaler only where it is clipped by: the scaler looks for overflow itself, and skips
        such steps, which are marked by -1.
        """
        scaler = self.grad_scaler
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not gradients or (scaler is not None and self._max_grad_norm is None):
            return torch.zeros((), device=self._device)
        if scaler is None:
            return total_norm(gradients)
        scaler.unscale_(self.optimizer)
        norm = total_norm(gradients)
        return torch.where(norm.isfinite(), norm, -1.0)

    def _next_batch(self) -> Sequence[Mapping[str, Any]]:
        """The next batch; starting the loader's workers draws from the generators, unseen."""
        # A loader that can seek draws by sample position, and must not depend on the generators
        # at all; of any other only the start is hidden, since its mapper may live on them.
        if self._batches is None:
            with held_back(), random_state.preserved():
                self._batches = iter(self.data_loader)
                if hasattr(self.data_loader, "seek"):
                    return next(self._batches)
        if not hasattr(self.data_loader, "seek"):
            return next(self._batches)
        with random_state.preserved():
            return next(self._batches)

    def _forward(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        precision = (
            contextlib.nullcontext()
            if self._autocast_dtype is None
            else torch.autocast(self._device.type, dtype=self._autocast_dtype)
        )
        with precision:
            output = self.model(batch)
        return {"total_loss": output} if isinstance(output, Tensor) else output

    def _put_metrics(
        self, names: Sequence[str], reports: Sequence[Report], data_time: float
    ) -> None:
        """Store the metrics under Detectron2's names; averages over ranks on the main process."""
        self.storage.put_scalar("rank_data_time", data_time)
        if not comm.is_main_process():
            return
        self.storage.put_scalar("data_time", max(report.data_time for report in reports))
        columns = list(zip(*(report.losses for report in reports), strict=True))
        mean = {k: float(np.mean(column)) for k, column in zip(names, columns, strict=True)}
        self.storage.put_scalar("total_loss", sum(mean.values()))
        if len(mean) > 1:
            for name, value in mean.items():
                self.storage.put_scalar(name, value)
        norm = reports[0].grad_norm
        if self.grad_scaler is None or (self._max_grad_norm is not None and norm >= 0):
            self.storage.put_scalar("grad_norm", norm)


def mean_losses(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The losses of an iteration, each the mean over its batches; a loss that one lacks is 0 there.

    Args:
        batches: at least one.
    """
    if len(batches) == 1:
        return dict(batches[0].losses)
    names = dict.fromkeys(name for batch in batches for name in batch.losses)
    found = {name: [b.losses[name] for b in batches if name in b.losses] for name in names}
    return {
        name: torch.stack([loss.reshape(()).double() for loss in losses]).sum() / len(batches)
        for name, losses in found.items()
    }

# SPDX-License-Identifier: Apache-2.0
"""The training loop: one step in the given precision, with agreement of all ranks before it counts.

Vocabulary:
    report: what one rank tells the others after its backward pass: losses, gradient norm, seconds
        spent on data, stop signal. Every rank sees every report, so that all stop together.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from vitdet_d2.engine import random_state
from vitdet_d2.engine.stop_signals import StopRequest, held_back
from vitdet_d2.errors import UserError


class NonFiniteError(UserError, FloatingPointError):
    """A loss or gradient that is NaN or Inf; raised on every rank, before the optimizer's step."""


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
        self._autocast_dtype = autocast_dtype
        self._device = next(model.parameters()).device
        self._batches: Iterator[Sequence[Mapping[str, Any]]] | None = None

    # ---------------------------------------------------------------- the loop

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter <= i < max_iter``; `iter` is `max_iter` after success."""
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
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
        """One iteration.

        Raises:
            NonFiniteError: on every rank, if a loss or gradient of any rank is not finite; on
                this one alone, if the model itself says so. The model and the optimizer are as
                they were before the step.
        """
        assert self.model.training, "the model was left in evaluation mode"
        start = time.perf_counter()
        batch = self._next_batch()
        data_time = time.perf_counter() - start
        try:
            losses = self._forward(batch)
        except FloatingPointError as error:  # of the RPN, which meets a divergence first
            raise NonFiniteError(
                f"{error}; at iteration {self.iter} on rank {comm.get_rank()}, images "
                f"{', '.join(_file_names(batch))}. Stopped before the step; last good checkpoint: "
                f"{self.last_checkpoint}"
            ) from error
        self.optimizer.zero_grad()
        # Upstream's order of summation, by which the total is bit-identical.
        total = cast(Tensor, sum(losses.values()))
        scaler = self.grad_scaler
        (total if scaler is None else scaler.scale(total)).backward()
        self.after_backward()
        reports = self._exchange(losses, data_time)
        self._require_finite(losses, reports, batch)
        self._put_metrics(list(losses), reports, data_time)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()

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

    # ---------------------------------------------------------------- agreement

    def _exchange(self, losses: Mapping[str, Tensor], data_time: float) -> list[list[float]]:
        """Every rank's report: its losses, then gradient norm, data time, stop signal."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.grad_scaler is not None or not gradients:
            # The scaler looks for overflow itself, and skips such steps.
            norm = torch.zeros((), device=self._device)
        else:
            norm = torch.nn.utils.get_total_norm(gradients)
        values = [loss.detach().reshape(()) for loss in losses.values()]
        on_device = torch.stack([v.double() for v in (*values, norm)])
        host = torch.tensor([data_time, float(self._stop.signum)], dtype=torch.float64)
        if comm.get_world_size() == 1:
            reports = [on_device.tolist() + host.tolist()]
        else:
            mine = torch.cat([on_device, host.to(on_device.device)])
            gathered = [torch.empty_like(mine) for _ in range(comm.get_world_size())]
            dist.all_gather(gathered, mine)
            reports = torch.stack(gathered).tolist()
        self.stop_signum = max(int(report[-1]) for report in reports)
        return reports

    def _require_finite(
        self,
        losses: Mapping[str, Tensor],
        reports: Sequence[Sequence[float]],
        batch: Sequence[Mapping[str, Any]],
    ) -> None:
        bad = [r for r, report in enumerate(reports) if not all(map(math.isfinite, report))]
        if not bad:
            return
        images = comm.all_gather(_file_names(batch))
        # Gradients are averaged, so that one bad loss spoils those of every rank.
        guilty = [r for r in bad if not all(map(math.isfinite, reports[r][: len(losses)]))]
        rank = (guilty or bad)[0]
        *values, norm, _, _ = reports[rank]
        named = ", ".join(f"{k}={v:.6g}" for k, v in zip(losses, values, strict=True))
        rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
        raise NonFiniteError(
            f"loss or gradient is not finite at iteration {self.iter} on rank {rank} "
            f"of {len(reports)}: {named}, gradient norm {norm:.6g}, learning rate {rate:.6g}, "
            f"images {', '.join(images[rank])}. Stopped before the step; last good checkpoint: "
            f"{self.last_checkpoint}. Likely causes: a learning rate too high for the batch size "
            "or too short a warm-up; a broken annotation in these images; float16 overflow (use "
            "train.amp.dtype=bf16). Then continue with --resume"
        )

    def _put_metrics(
        self, names: Sequence[str], reports: Sequence[Sequence[float]], data_time: float
    ) -> None:
        """Store the metrics under Detectron2's names; averages over ranks on the main process."""
        self.storage.put_scalar("rank_data_time", data_time)
        if not comm.is_main_process():
            return
        self.storage.put_scalar("data_time", max(report[-2] for report in reports))
        columns = list(zip(*reports, strict=True))[: len(names)]
        mean = {k: float(np.mean(column)) for k, column in zip(names, columns, strict=True)}
        self.storage.put_scalar("total_loss", sum(mean.values()))
        if len(mean) > 1:
            for name, value in mean.items():
                self.storage.put_scalar(name, value)
        if self.grad_scaler is None:
            self.storage.put_scalar("grad_norm", reports[0][-3])


def _file_names(batch: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(sample.get("file_name", "?")) for sample in batch]

# SPDX-License-Identifier: Apache-2.0
"""What the ranks tell each other after a backward pass, so that all go on, or stop, together.

Vocabulary:
    report: one rank's numbers of an iteration: its mean losses, gradient norm, seconds spent on
        data, stop signal. Every rank sees every report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from vitdet_d2.errors import UserError


class NonFiniteError(UserError, FloatingPointError):
    """A loss or gradient that is NaN or Inf; raised on every rank, before the optimizer's step."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One rank's numbers of one iteration.

    Attributes:
        losses: in the order of the model's losses.
        grad_norm: of all gradients together, averaged over the ranks and before clipping; 0 where
            it was not computed, -1 where float16 overflowed.
        data_time: seconds spent waiting for batches.
        signum: the stop signal that this rank received; 0: none.
    """

    losses: tuple[float, ...]
    grad_norm: float
    data_time: float
    signum: int

    @property
    def is_finite(self) -> bool:
        """Whether losses and gradients are."""
        return all(map(math.isfinite, (*self.losses, self.grad_norm)))


def exchange(
    losses: Sequence[Tensor],
    grad_norm: Tensor,
    *,
    data_time: float,
    signum: int,
    own: Tensor | None = None,
) -> tuple[list[Report], list[float]]:
    """Give every rank's report to every rank; one collective, one wait for the device.

    Args:
        losses: scalars on the device, as many on every rank.
        grad_norm: a scalar on the device.
        data_time: in seconds.
        signum: 0 for none.
        own: ``(n,)`` numbers that are read by the way and stay on this rank.

    Returns:
        A report of every rank, and the numbers of ``own``.
    """
    device = grad_norm.device
    values = [value.detach().reshape(()).double() for value in (*losses, grad_norm)]
    # Filled in on the device: a copy from the host would wait for it.
    values += [
        torch.full((), value, dtype=torch.float64, device=device)
        for value in (data_time, float(signum))
    ]
    rows = torch.stack(values)[None]
    if comm.get_world_size() > 1:
        gathered = [torch.empty_like(rows[0]) for _ in range(comm.get_world_size())]
        dist.all_gather(gathered, rows[0])
        rows = torch.stack(gathered)
    parts = [rows.flatten()]
    if own is not None and len(own):
        parts.append(own.double().to(device, non_blocking=True))
    numbers = torch.cat(parts).tolist()
    width = len(values)
    reports = [
        Report(losses=tuple(row[:-3]), grad_norm=row[-3], data_time=row[-2], signum=int(row[-1]))
        for row in (numbers[i * width : (i + 1) * width] for i in range(len(rows)))
    ]
    return reports, numbers[rows.numel() :]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is remembered of a loader batch until the iteration is accepted.

    Attributes:
        losses: by name, detached.
        file_names: of its images.
    """

    losses: Mapping[str, Tensor]
    file_names: Sequence[str]


def file_names(batch: Sequence[Mapping[str, Any]]) -> list[str]:
    """The images of a loader batch; "?" where a sample does not name its own."""
    return [str(sample.get("file_name", "?")) for sample in batch]


def require_finite(
    reports: Sequence[Report],
    names: Sequence[str],
    batches: Sequence[Batch],
    *,
    iteration: int,
    learning_rate: float,
    last_checkpoint: str,
) -> None:
    """Stop every rank if a number of any rank is not finite.

    Args:
        reports: of all ranks.
        names: of the losses.
        batches: of this rank's iteration.
        iteration: the current one.
        learning_rate: the highest of the optimizer's.
        last_checkpoint: what the user can go back to.

    Raises:
        NonFiniteError: it says where, and what to do.
    """
    bad = [rank for rank, report in enumerate(reports) if not report.is_finite]
    if not bad:
        return
    images = comm.all_gather(_suspects(batches))
    # Gradients are averaged, so that one bad loss spoils those of every rank.
    guilty = [rank for rank in bad if not all(map(math.isfinite, reports[rank].losses))]
    rank = (guilty or bad)[0]
    report = reports[rank]
    named = ", ".join(f"{k}={v:.6g}" for k, v in zip(names, report.losses, strict=True))
    raise NonFiniteError(
        f"loss or gradient is not finite at iteration {iteration} on rank {rank} "
        f"of {len(reports)}: {named}, gradient norm {report.grad_norm:.6g}, learning rate "
        f"{learning_rate:.6g}, images {', '.join(images[rank])}. Stopped before the step; last "
        f"good checkpoint: {last_checkpoint}. Likely causes: a learning rate too high for the "
        "batch size or too short a warm-up; a broken annotation in these images; float16 overflow "
        "(use train.amp.dtype=bf16). Then continue with --resume"
    )


def _suspects(batches: Sequence[Batch]) -> list[str]:
    """Images of the batches whose losses are not finite, of all batches where none is."""
    guilty = [
        batch
        for batch in batches
        if not all(bool(torch.isfinite(loss).all()) for loss in batch.losses.values())
    ]
    return [name for batch in guilty or batches for name in batch.file_names]

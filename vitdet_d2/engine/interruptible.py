# SPDX-License-Identifier: Apache-2.0
"""A test loader that a stop signal ends between two batches, on all ranks together."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

from vitdet_d2.engine.stop_signals import StopRequest, held_back
from vitdet_d2.errors import StoppedBySignal

# Ranks wait for each other at a check; every batch would cost the fast ones their lead.
BATCHES_PER_CHECK = 8


class InterruptibleLoader:
    """Passes batches on, and raises `StoppedBySignal` once any rank was asked to stop.

    Ranks may have different numbers of batches: a rank that is through keeps answering the others.
    """

    def __init__(self, loader: Any, stop: StopRequest, message: str) -> None:
        """Wrap a loader.

        Args:
            loader: iterable with a length.
            stop: the flag that signals set.
            message: says where the state is that was saved before.
        """
        self._loader = loader
        self._stop = stop
        self._message = message

    def __len__(self) -> int:
        assert isinstance(self._loader, Sized), "evaluation needs a loader with a length"
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        most = max(comm.all_gather(len(self)))
        # A data worker must not die of a signal to the process group.
        with held_back():
            batches = iter(self._loader)
        for index in range(most):
            if index % BATCHES_PER_CHECK == 0:
                self._check()
            if index < len(self):
                yield next(batches)

    def _check(self) -> None:
        signum = self._stop.signum
        if comm.get_world_size() > 1:
            on_gpu = dist.get_backend() == "nccl"
            flag = torch.tensor(signum, device="cuda" if on_gpu else "cpu")
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            signum = int(flag)
        if signum:
            raise StoppedBySignal(signum, self._message)

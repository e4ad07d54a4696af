# SPDX-License-Identifier: Apache-2.0
"""Saves the training state when it is due."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from vitdet_d2.engine.checkpoint_store import (
    AVERAGE_FINAL,
    FINAL,
    CheckpointStore,
    CheckpointWriteError,
)
from vitdet_d2.engine.manifest import Record
from vitdet_d2.engine.trainer import Trainer
from vitdet_d2.errors import StoppedBySignal, UserError

logger = logging.getLogger(__name__)


class CheckpointHook(HookBase):
    """Saves every `period` iterations, before evaluation, at the end, and when a signal asks.

    Stands after the learning-rate hook, so that the saved schedule is that of the next iteration,
    and before the evaluation hook, so that a failing evaluation loses nothing. On every rank.
    """

    trainer: Trainer

    def __init__(
        self,
        store: CheckpointStore,
        *,
        period: int,
        eval_period: int,
        collect_state: Callable[[Trainer], dict[str, Any]],
        meta: Mapping[str, Any],
        collect_average: Callable[[int], dict[str, Any]] | None = None,
        write_shards: Callable[[Trainer], tuple[dict[str, Any], dict[str, Any]]] | None = None,
    ) -> None:
        """Remember what to save and when.

        Args:
            store: where to.
            period: in iterations.
            eval_period: that of the evaluation hook; 0 for none.
            collect_state: the state to save; called on every rank, used on the main process.
            meta: entries of the manifest.
            collect_average: the averaged weights, given the iteration, which are saved at the end;
                called on every rank, used on the main process.
            write_shards: writes every rank's share of the tensors and returns the state without
                them, and entries of the manifest; None: states are saved as a whole. The last one
                always is.
        """
        self._write_shards = write_shards
        self._store = store
        self._period = period
        self._eval_period = eval_period
        self._collect_state = collect_state
        self._meta = meta
        self._collect_average = collect_average

    def before_train(self) -> None:
        """Complete a run that was killed between its last checkpoint and the final copies."""
        if not 0 < self.trainer.max_iter <= self.trainer.start_iter:
            return
        last = Path(self.trainer.last_checkpoint)
        if comm.all_gather(comm.is_main_process() and self._store.is_sharded(last))[0]:
            whole = {**self._collect_state(self.trainer), "iteration": self.trainer.max_iter - 1}
            if comm.is_main_process():
                iteration = self.trainer.max_iter - 1
                self._store.save(whole, iteration=iteration, meta=self._meta)
        lacks_average = False
        if comm.is_main_process():
            if last.name != FINAL:
                self._store.save_final(last)
            saved = self._store.weights_record(AVERAGE_FINAL)
            iteration = saved.iteration if isinstance(saved, Record) else -1
            lacks_average = iteration != self.trainer.max_iter - 1
        if comm.all_gather(lacks_average)[0]:
            average = self._averaged(self.trainer.max_iter - 1)
            if comm.is_main_process():
                self._save_average(average, self.trainer.max_iter - 1)

    def after_step(self) -> None:
        """Save if it is due, then stop if a signal asks for it.

        Raises:
            StoppedBySignal: on every rank, after the state was saved.
        """
        done = self.trainer.iter + 1
        is_last = done == self.trainer.max_iter
        signum = self.trainer.stop_signum
        if is_last or signum or self._is_due(done):
            path = self._save(is_last)
            if signum:
                raise StoppedBySignal(signum, stop_message(signum, self.trainer.iter, path))

    def _is_due(self, done: int) -> bool:
        return any(p > 0 and done % p == 0 for p in (self._period, self._eval_period))

    def _save(self, is_last: bool) -> str:
        """Save on the main process.

        Raises:
            CheckpointWriteError: on every rank, when the main process could not.
        """
        meta = self._meta
        if self._write_shards is None or is_last:
            state = self._collect_state(self.trainer)
        else:
            state, shards = self._write_shards(self.trainer)
            meta = {**meta, **shards}
        average = self._averaged(self.trainer.iter) if is_last else None
        path = failure = ""
        if comm.is_main_process():
            try:
                path = str(self._write(state, meta, average, is_last))
            except UserError as error:
                failure = str(error)
        path, failure = comm.all_gather((path, failure))[0]
        if failure:
            raise CheckpointWriteError(failure)
        self.trainer.last_checkpoint = path
        return path

    def _averaged(self, iteration: int) -> Mapping[str, Any] | None:
        """The averaged weights, if there are any; called on every rank."""
        return None if self._collect_average is None else self._collect_average(iteration)

    def _write(
        self,
        state: Mapping[str, Any],
        meta: Mapping[str, Any],
        average: Mapping[str, Any] | None,
        is_last: bool,
    ) -> Path:
        path = self._store.save(state, iteration=self.trainer.iter, meta=meta)
        logger.info("Saved %s", path)
        if not is_last:
            return path
        final = self._store.save_final(path)
        self._save_average(average, self.trainer.iter)
        return final

    def _save_average(self, state: Mapping[str, Any] | None, iteration: int) -> None:
        """Write the averaged weights, if there are any, to a file of their own."""
        if state is None:
            return
        path = self._store.save_weights(AVERAGE_FINAL, state, iteration=iteration, meta=self._meta)
        logger.info("Saved %s, the averaged weights", path)


def stop_message(signum: int, iteration: int, path: str) -> str:
    """What is said when a signal ended the run.

    Args:
        signum: the signal.
        iteration: the last one completed.
        path: the checkpoint that holds its state.
    """
    return (
        f"stopped by {signal.Signals(signum).name} after iteration {iteration}; saved {path}; "
        "continue with --resume"
    )

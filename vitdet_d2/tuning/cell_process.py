# SPDX-License-Identifier: Apache-2.0
"""Cells as processes: each trains in a folder of its own, on GPUs of its own."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vitdet_d2.atomic_write import atomic_write
from vitdet_d2.engine.run_folder import LOCK_NAME, holds_run
from vitdet_d2.errors import RecipeError, UserError
from vitdet_d2.tuning.cells import Cell
from vitdet_d2.tuning.recipe_keys import OUTPUT, TO_KEEP, RecipeKeys
from vitdet_d2.tuning.results import NoValueError, explain, is_complete, read_value
from vitdet_d2.tuning.settings import Objective
from vitdet_d2.tuning.work import Outcome

STAMP = "cell.json"
# A study's checkpoints serve nothing but its going on.
KEPT_CHECKPOINTS = 2
# The process of a killed study saves before it leaves the folder.
SECONDS_FOR_FOLDER = 600.0
_STOPPED = (130, 143, -2, -15)


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Where cells run on this machine.

    Attributes:
        devices: names for ``CUDA_VISIBLE_DEVICES``, by slot; empty: the CPU.
        count: cells at once.
    """

    devices: tuple[tuple[str, ...], ...]
    count: int

    def environment(self, slot: int, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the process in a slot.

        Args:
            slot: from 0.
            base: environment of this process.
        """
        environment = dict(base)
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices[slot])
        elif self.count > 1:
            # Each process would start a thread per core.
            share = max((os.cpu_count() or 1) // self.count, 1)
            environment.setdefault("OMP_NUM_THREADS", str(share))
        return environment


@dataclass(frozen=True, kw_only=True)
class CellRunner:
    """Starts cells.

    Attributes:
        recipe: path or name.
        overrides: of the user, for all cells.
        length: overrides that say how long a cell trains.
        keys: that cells differ in.
        output: folder of the study.
        metric: of the objective.
        objective: which evaluation counts.
        fingerprint: of the study.
        slots: of this machine.
    """

    recipe: str
    overrides: tuple[str, ...]
    length: tuple[str, ...]
    keys: RecipeKeys
    output: Path
    metric: str
    objective: Objective
    fingerprint: str
    slots: Slots

    def folder(self, cell: Cell) -> Path:
        """Return the run folder of a cell."""
        return self.output / "cells" / cell.key

    def log(self, cell: Cell) -> Path:
        """Return the file that has what a cell's process printed."""
        return self.output / "logs" / f"{cell.key}.txt"

    @property
    def training(self) -> list[str]:
        """Arguments of ``vitdet`` that all trainings of the recipe begin with."""
        gpus = len(self.slots.devices[0]) if self.slots.devices else 0
        return ["train", "--config-file", self.recipe, "--num-gpus", str(gpus)]

    def arguments(self, cell: Cell) -> list[str]:
        """Return the arguments of ``vitdet`` that train a cell."""
        return [
            *self.training,
            "--resume=auto",
            f"{TO_KEEP}={KEPT_CHECKPOINTS}",
            *self.overrides,
            *self.length,
            *self.keys.overrides(cell),
            f"{OUTPUT}={self.folder(cell)}",
        ]

    def command(self, cell: Cell) -> str:
        """Return the command line of a cell."""
        return shlex.join(["vitdet", *self.arguments(cell)])

    def require_own_folders(self) -> None:
        """Refuse an output folder with cells of another study, before any work.

        Raises:
            RecipeError: it has some.
        """
        for folder in sorted((self.output / "cells").glob("lr*_wd*_dp*")):
            if holds_run(folder) is not None and _stamp(folder) != self.fingerprint:
                raise RecipeError(
                    f"{folder} holds a run of another study or of other settings; move it away, "
                    "or name another folder with --output"
                )

    def start(self, cell: Cell, slot: int) -> CellProcess:
        """Begin a cell, or go on with one from its last checkpoint.

        Args:
            cell: claimed by this worker.
            slot: that is free.
        """
        return CellProcess(self, cell, slot)


class CellProcess:
    """A cell in a slot, from the wait for its folder to its outcome."""

    def __init__(self, runner: CellRunner, cell: Cell, slot: int) -> None:
        """Remember what is to be run; `poll` starts it.

        Args:
            runner: of the study.
            cell: to train.
            slot: where.
        """
        self._runner = runner
        self._cell = cell
        self._slot = slot
        self._folder = runner.folder(cell)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._log_start = 0
        self._waiting_since = time.monotonic()

    def poll(self) -> Outcome | None:
        """Return what the cell came to, None while it runs.

        Raises:
            UserError: no process can be started in the study's folder.
        """
        if self._process is not None:
            returncode = self._process.poll()
            return None if returncode is None else self._ended(returncode)
        if _is_locked(self._folder):
            if time.monotonic() - self._waiting_since < SECONDS_FOR_FOLDER:
                return None
            return Outcome(error=f"{self._folder} is in use by another process")
        if is_complete(self._folder, self._runner.metric):
            return self._value()
        try:
            self._start()
        except OSError as error:
            raise UserError(f"{self._cell.text}: cannot be started: {error}") from error
        return None

    def stop(self) -> None:
        """Ask the process to save its state and to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close()

    def _start(self) -> None:
        log = self._runner.log(self._cell)
        for folder in (log.parent, self._folder):
            folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._folder / STAMP) as file:
            file.write(json.dumps({"fingerprint": self._runner.fingerprint}).encode("ascii"))
        self._log = open(log, "ab")
        self._log_start = self._log.tell()
        command = [sys.executable, "-m", "vitdet_d2.tuning.cell_job"]
        # Its standard input stays open as long as this process lives. In a session of its own,
        # Ctrl-C reaches this process only, which then stops the cells in order.
        self._process = subprocess.Popen(
            [*command, *self._runner.arguments(self._cell)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._runner.slots.environment(self._slot, os.environ),
            start_new_session=True,
        )

    def _ended(self, returncode: int) -> Outcome:
        self._close()
        if returncode == 0:
            return self._value()
        with open(self._runner.log(self._cell), "rb") as file:
            file.seek(self._log_start)
            text = file.read().decode("utf-8", errors="replace")
        return Outcome(error=explain(returncode, text), stopped=returncode in _STOPPED)

    def _value(self) -> Outcome:
        try:
            runner = self._runner
            return Outcome(value=read_value(self._folder, runner.metric, runner.objective))
        except NoValueError as error:
            return Outcome(error=str(error))

    def _close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._log is not None:
            self._log.close()


def _stamp(folder: Path) -> str | None:
    try:
        content = json.loads((folder / STAMP).read_bytes())
        return str(content["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_locked(folder: Path) -> bool:
    """Return whether a run holds its folder."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)  # and with it the lock
    return False


def devices_of(count: int, visible: str | None) -> list[str]:
    """Return the names of this machine's GPUs, as ``CUDA_VISIBLE_DEVICES`` takes them.

    Args:
        count: that PyTorch can use.
        visible: the variable's value in this process; None: not set.
    """
    names: Sequence[str] = [name.strip() for name in (visible or "").split(",") if name.strip()]
    return list(names[:count]) if names else [str(index) for index in range(count)]

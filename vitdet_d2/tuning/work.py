# SPDX-License-Identifier: Apache-2.0
"""The loop of a worker: claim cells, run them side by side, write down what they came to."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol as Interface

from vitdet_d2.errors import StoppedBySignal, UserError
from vitdet_d2.tuning.cells import Cell
from vitdet_d2.tuning.protocol import Protocol, Stage, StageNumber, stages
from vitdet_d2.tuning.study import TuningStudy


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What running a cell came to; one of value and error is there.

    Attributes:
        value: of the objective.
        error: for people.
        stopped: it ended because it was asked to, its state saved.
    """

    value: float | None = None
    error: str | None = None
    stopped: bool = False


class Job(Interface):
    """A cell that runs."""

    def poll(self) -> Outcome | None:
        """Return what it came to, None while it runs."""

    def stop(self) -> None:
        """Ask it to save its state and to end."""

    def kill(self) -> None:
        """End it at once."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a worker does what, in seconds.

    Attributes:
        poll: between looks at its own cells.
        refresh: between looks at the study, which others may have changed.
        beat: between signs of life.
        stop: for cells to save their state, before they are killed.
    """

    poll: float = 0.5
    refresh: float = 5.0
    beat: float = 15.0
    stop: float = 300.0


@dataclass(frozen=True, kw_only=True)
class _Running:
    number: int
    cell: Cell
    job: Job


class Worker:
    """One process' part in a study."""

    def __init__(
        self,
        study: TuningStudy,
        protocol: Protocol,
        last: StageNumber,
        start: Callable[[Cell, int], Job],
        slots: int,
        *,
        say: Callable[[str], None],
        stop_signal: Callable[[], int] = lambda: 0,
        pace: Pace | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is claimed yet.

        Args:
            study: shared with other workers.
            protocol: says which cells there are.
            last: the stage after which this worker ends.
            start: begins a claimed cell in a slot.
            slots: cells at once.
            say: tells the user a line.
            stop_signal: number of the signal that asked this process to end, 0 for none.
            pace: how often what is done.
            sleep: waits; replaced in tests.
            clock: in seconds; replaced in tests.
        """
        self._study = study
        self._protocol = protocol
        self._last = last
        self._start = start
        self._say = say
        self._stop_signal = stop_signal
        self._pace = pace or Pace()
        self._sleep = sleep
        self._clock = clock
        self._slots: list[_Running | None] = [None] * slots
        self._said: set[str] = set()
        self._next_beat = self._next_refresh = float("-inf")

    def work(self) -> list[Stage]:
        """Run cells until the last stage is through, wherever its cells run.

        Returns:
            The stages.

        Raises:
            StoppedBySignal: a signal asked for it; the cells saved their state and are open again.
        """
        try:
            while True:
                if self._stop_signal():
                    self._stop()
                self._beat()
                self._collect()
                if self._clock() >= self._next_refresh:
                    self._next_refresh = self._clock() + self._pace.refresh
                    known = self._advance()
                    if not known[-1].open and not any(self._slots):
                        return known
                self._sleep(self._pace.poll)
        finally:
            for running in filter(None, self._slots):
                running.job.kill()
                # Where the storage is the reason for ending, the claim is stale soon.
                with contextlib.suppress(UserError):
                    self._study.release(running.number)

    def _beat(self) -> None:
        """Say that this worker lives, and let go of cells that others have taken over."""
        if self._clock() < self._next_beat:
            return
        self._next_beat = self._clock() + self._pace.beat
        self._study.beat()
        for slot, running in enumerate(self._slots):
            if running is not None and not self._study.is_mine(running.number):
                self._say(f"{running.cell.text}: taken over by another worker; stopped here")
                running.job.kill()
                self._slots[slot] = None

    def _collect(self) -> None:
        """Write down the cells that have ended."""
        for slot, running in enumerate(self._slots):
            outcome = running.job.poll() if running is not None else None
            if running is None or outcome is None:
                continue
            if outcome.stopped and self._is_stopping():
                self._study.release(running.number)
            else:
                self._record(running, outcome)
            self._slots[slot] = None
            self._next_refresh = float("-inf")  # a slot is free

    def _is_stopping(self) -> bool:
        # A machine that shuts down signals all processes, in any order.
        if not self._stop_signal():
            self._sleep(min(self._pace.poll, 1.0))
        return bool(self._stop_signal())

    def _record(self, running: _Running, outcome: Outcome) -> None:
        if outcome.value is not None:
            self._study.finish(running.number, outcome.value)
            self._say(f"{running.cell.text}: {outcome.value:.4g}")
        else:
            self._study.fail(running.number, outcome.error or "no reason given")
            self._say(f"{running.cell.text}: failed: {outcome.error}")

    def _advance(self) -> list[Stage]:
        """Fill free slots with cells that nobody has; return the stages."""
        for cell in self._study.take_over_stale():
            self._say(f"{cell.text}: its worker is gone, the cell is open again")
        known = stages(self._protocol, self._study.outcomes(), self._last)
        self._tell_progress(known)
        taken = {running.cell for running in filter(None, self._slots)}
        waiting = [cell for cell in known[-1].open if cell not in taken]
        for slot, running in enumerate(self._slots):
            while running is None and waiting:
                cell = waiting.pop(0)
                number = self._study.claim(cell)
                if number is None:
                    continue
                self._say(f"{cell.text}: started")
                running = _Running(number=number, cell=cell, job=self._start(cell, slot))
                self._slots[slot] = running
        return known

    def _tell_progress(self, known: list[Stage]) -> None:
        stage = known[-1]
        grown = f", the grid extended {stage.extensions} times" if stage.extensions else ""
        text = f"stage {stage.number}{grown}: {len(stage.cells) - len(stage.open)} of "
        text += f"{len(stage.cells)} cells are through"
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def _stop(self) -> None:
        """Stop all cells, give them back, and end.

        Raises:
            StoppedBySignal: always.
        """
        number = self._stop_signal()
        for running in filter(None, self._slots):
            running.job.stop()
        deadline = self._clock() + self._pace.stop
        while any(self._slots) and self._clock() < deadline:
            self._collect()
            self._sleep(min(self._pace.poll, 0.2))
        raise StoppedBySignal(
            number,
            f"{signal.Signals(number).name}: the cells that ran have saved their state; the same "
            "command goes on with the study",
        )

# SPDX-License-Identifier: Apache-2.0
"""Studies in SQLite whose cells are functions in place of trainings."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from vitdet_d2.tuning.cells import Cell, Grid
from vitdet_d2.tuning.liveness import Identity
from vitdet_d2.tuning.protocol import Protocol
from vitdet_d2.tuning.settings import Settings
from vitdet_d2.tuning.storage import DATABASE, folder_url, open_study
from vitdet_d2.tuning.study import TuningStudy
from vitdet_d2.tuning.work import Job, Outcome, Pace, Worker

FAST = Pace(poll=0.0, refresh=0.0, beat=0.0, stop=1.0)
GRID = Grid(lrs=(1.0, 2.0, 4.0), weight_decays=(0.1, 0.2, 0.4))
ELSEWHERE = Identity(machine="another kernel", host="elsewhere", pid=7, started=7)


def protocol(
    grid: Grid = GRID, drop_paths: tuple[float, ...] = (0.0, 0.1), max_extensions: int = 3
) -> Protocol:
    return Protocol(grid=grid, drop_paths=drop_paths, max_extensions=max_extensions)


def settings(of: Protocol, recipe: dict[str, float] | None = None) -> Settings:
    return Settings(
        recipe=json.dumps(recipe or {"depth": 4.0}),
        protocol=of,
        metric="bbox/AP",
        objective="final",
    )


def study(
    folder: Path,
    of: Protocol,
    *,
    recipe: dict[str, float] | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    identity: Identity | None = None,
) -> TuningStudy:
    """A worker's view of the study in a folder; made where there is none."""
    database = folder / DATABASE
    if not database.exists():
        _copy_empty(database)
    return TuningStudy(
        open_study(folder_url(folder), "fake"),
        settings(of, recipe),
        grace_seconds=100,
        clock=clock,
        identity=identity,
    )


def _copy_empty(database: Path) -> None:
    """Make a storage by copying an empty one: making its tables takes most of a test's time."""
    temporary = database.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    temporary.write_bytes(_empty())
    # Another thread may have been faster, and use it already.
    with contextlib.suppress(FileExistsError):
        os.link(temporary, database)
    temporary.unlink()


@functools.cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        open_study(folder_url(Path(folder)), "none")
        return (Path(folder) / DATABASE).read_bytes()


class FakeJob:
    """Ends after some polls with what a function says of its cell."""

    def __init__(self, outcome: Outcome, polls: int) -> None:
        self.outcome, self.polls = outcome, polls
        self.was_stopped = self.was_killed = False

    def poll(self) -> Outcome | None:
        if self.was_stopped:
            return Outcome(error="stopped", stopped=True)
        self.polls -= 1
        return self.outcome if self.polls < 0 else None

    def stop(self) -> None:
        self.was_stopped = True

    def kill(self) -> None:
        self.was_killed = True


class FakeCells:
    """Starts fake cells and remembers which, in which slot."""

    def __init__(self, value: Callable[[Cell], float | str], polls: int = 0) -> None:
        self.value, self.polls = value, polls
        self.started: list[tuple[Cell, int]] = []
        self.jobs: list[FakeJob] = []

    def __call__(self, cell: Cell, slot: int) -> Job:
        self.started.append((cell, slot))
        value = self.value(cell)
        outcome = Outcome(error=value) if isinstance(value, str) else Outcome(value=value)
        self.jobs.append(FakeJob(outcome, self.polls))
        return self.jobs[-1]

    @property
    def cells(self) -> list[Cell]:
        return [cell for cell, _ in self.started]


def worker(
    of: TuningStudy,
    settings_of: Protocol,
    cells: Callable[[Cell, int], Job],
    *,
    last: int = 2,
    slots: int = 1,
    said: list[str] | None = None,
    stop_signal: Callable[[], int] = lambda: 0,
    sleep: Callable[[float], None] = lambda _: None,
) -> Worker:
    return Worker(
        of,
        settings_of,
        last,  # type: ignore[arg-type]
        cells,
        slots,
        say=(said if said is not None else []).append,
        stop_signal=stop_signal,
        pace=FAST,
        sleep=sleep,
    )

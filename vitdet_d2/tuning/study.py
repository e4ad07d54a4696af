# SPDX-License-Identifier: Apache-2.0
"""A tuning study in a storage that several workers share.

Vocabulary:
    worker: one `vitdet tune` process. It says in the study that it lives, again and again.
    claim: a trial of the state RUNNING that names a cell and a worker. The first one counts.
    abandoned: a trial of the state FAIL for which no error was kept; its cell is open again.

How a cell is never run twice: a claim is put in by one transaction, whole, and the storage numbers
trials in the order in which they become visible. Whoever has put in a claim looks again, and steps
back where a claim of the same cell has a lower number; so exactly one of any number of workers
keeps it. Optuna's `GridSampler` promises no such thing (several workers may draw one cell, a cell
whose worker died counts as visited, an extended grid starts afresh), and neither does its queue of
waiting trials on SQLite. Only public parts of Optuna are used.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vitdet_d2.errors import RecipeError
from vitdet_d2.tuning.cells import Cell
from vitdet_d2.tuning.liveness import Identity, is_gone, this_process
from vitdet_d2.tuning.records import (
    Record,
    cell_of,
    counting,
    failure_key,
    read_outcomes,
    read_records,
)
from vitdet_d2.tuning.settings import Settings
from vitdet_d2.tuning.storage import add_claim, end_claim, patiently

if TYPE_CHECKING:
    import optuna

SETTINGS = "settings"
# What a database keeps of an error.
MAX_ERROR_LENGTH = 2000


class TuningStudy:
    """The study as one worker sees it."""

    def __init__(
        self,
        study: optuna.Study,
        settings: Settings,
        *,
        grace_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        identity: Identity | None = None,
    ) -> None:
        """Take part in a study.

        Args:
            study: of Optuna.
            settings: what is studied; put into a new study, compared with those of an old one.
            grace_seconds: how long a worker of another machine may be silent before its cells
                are taken over.
            clock: in seconds.
            identity: of this process.

        Raises:
            RecipeError: the study is one of another recipe or other settings.
        """
        self.study = study
        self.fingerprint = settings.fingerprint
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._identity = identity or this_process()
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._heard: dict[str, tuple[int, float]] = {}
        stored = self._attributes().get(SETTINGS)
        if stored is None:
            self._note(SETTINGS, settings.as_json())
        else:
            settings.require_same(stored, study.study_name)

    # ---------------------------------------------------------------- reading

    def records(self) -> dict[Cell, Record]:
        """Return what is known, by cell.

        Raises:
            RecipeError: someone else's cells are in the study.
        """
        return read_records(self._trials(), self._attributes())

    def outcomes(self) -> dict[Cell, float | None]:
        """Return the values of the cells that are through; None for failed ones."""
        return read_outcomes(self.records())

    def is_mine(self, number: int) -> bool:
        """Return whether a claim of this worker still stands.

        Args:
            number: of the claim.
        """
        return any(t.number == number and t.state.name == "RUNNING" for t in self._trials())

    # ---------------------------------------------------------------- writing

    def beat(self) -> None:
        """Say that this worker lives."""
        self._beats += 1
        known = {**asdict(self._identity), "beat": self._beats}
        self._note(_worker_key(self._token), known)

    def claim(self, cell: Cell) -> int | None:
        """Take a cell for this worker.

        Args:
            cell: that has no record.

        Returns:
            Number of the claim; None where another worker has the cell, or nothing was put in.
        """
        if cell in self.records():
            return None
        if not self._beats:
            self.beat()
        mark = uuid.uuid4().hex
        add_claim(
            self.study,
            asdict(cell),
            {
                "cell": cell.key,
                "claim": mark,
                "worker": self._token,
                "host": self._identity.host,
                "fingerprint": self.fingerprint,
            },
        )
        mine = None
        rivals = []
        for trial in self._trials():
            if cell_of(trial) != cell:
                continue
            if trial.user_attrs.get("claim") == mark:
                mine = trial.number
            else:
                rivals.append(trial)
        if mine is None:
            return None  # the storage was in trouble
        earlier = [trial for trial in rivals if trial.number < mine]
        if counting(earlier, self._attributes()) is not None:
            self.release(mine)
            return None
        return mine

    def finish(self, number: int, value: float) -> bool:
        """Write down the value of a cell.

        Args:
            number: of the claim.
            value: of the objective, finite.

        Returns:
            Whether the claim still stood.
        """
        return end_claim(self.study, number, "COMPLETE", value)

    def fail(self, number: int, error: str) -> bool:
        """Write down why a cell failed.

        Args:
            number: of the claim.
            error: for people.

        Returns:
            Whether the claim still stood.
        """
        if not self.is_mine(number):
            return False
        # First, so that a trial that failed and has no error is an abandoned one, whenever this
        # process is killed.
        self._note(failure_key(number), {"error": error[:MAX_ERROR_LENGTH], "forgiven": False})
        return end_claim(self.study, number, "FAIL")

    def release(self, number: int) -> None:
        """Give a claim back: the cell is open again.

        Args:
            number: of the claim.
        """
        end_claim(self.study, number, "FAIL")

    def retry_failed(self) -> int:
        """Open all failed cells again; return how many."""
        failed = [record for record in self.records().values() if record.state == "failed"]
        for record in failed:
            self._note(failure_key(record.number), {"error": record.error, "forgiven": True})
        return len(failed)

    def take_over_stale(self) -> list[Cell]:
        """Release the claims of workers that are gone; return their cells.

        A worker of this machine is gone when its process is; one of another machine when it has
        been silent for the time of grace, measured by this process' own clock.
        """
        # Workers say that they live before they claim: read in this order, no living one is missed.
        trials, attributes = self._trials(), self._attributes()
        freed = []
        for trial in trials:
            if trial.state.name != "RUNNING":
                continue
            if self._is_gone(str(trial.user_attrs.get("worker")), attributes):
                self.release(trial.number)
                freed.append(cell_of(trial))
        return freed

    # ---------------------------------------------------------------- inside

    def _attributes(self) -> dict[str, Any]:
        return patiently(lambda: self.study.user_attrs)

    def _note(self, key: str, value: Any) -> None:
        patiently(lambda: self.study.set_user_attr(key, value))

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        trials = patiently(lambda: self.study.get_trials(deepcopy=False))
        others = {t.user_attrs.get("fingerprint") for t in trials} - {self.fingerprint}
        if others:
            raise RecipeError(
                f"the study {self.study.study_name} was begun twice at once, with other settings; "
                "name another one with --study-name"
            )
        return trials

    def _is_gone(self, token: str, attributes: dict[str, Any]) -> bool:
        if token == self._token:
            return False
        known = attributes.get(_worker_key(token))
        if known is None:
            return True  # a worker says that it lives before its first claim
        beat = int(known["beat"])
        identity = Identity(**{name: known[name] for name in asdict(self._identity)})
        if identity.machine == self._identity.machine and identity.started:
            return is_gone(identity)
        now = self._clock()
        last, since = self._heard.get(token, (None, now))
        if beat != last:
            self._heard[token] = (beat, now)
            return False
        return now - since > self._grace_seconds


def _worker_key(token: str) -> str:
    return f"worker {token}"

# SPDX-License-Identifier: Apache-2.0
"""What the trials of a study say about its cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vitdet_d2.tuning.cells import Cell

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

State = Literal["done", "failed", "running"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a study knows of a cell.

    Attributes:
        cell: the cell.
        state: of its last claim; cells that are open have no record.
        number: of the claim.
        value: of the objective, where done.
        error: where failed.
        seconds: between claim and end; None while it runs.
        host: machine of the worker.
        claims: how often the cell was begun.
    """

    cell: Cell
    state: State
    number: int
    value: float | None
    error: str | None
    seconds: float | None
    host: str
    claims: int


def read_records(
    trials: Iterable[FrozenTrial], attributes: Mapping[str, Any]
) -> dict[Cell, Record]:
    """Return what is known, by cell.

    Args:
        trials: of a study.
        attributes: the study's own.
    """
    claims: dict[Cell, list[FrozenTrial]] = {}
    for trial in trials:
        claims.setdefault(cell_of(trial), []).append(trial)
    records = {}
    for cell, ours in claims.items():
        found = counting(ours, attributes)
        if found is not None:
            records[cell] = _record(cell, found, len(ours), attributes)
    return records


def read_outcomes(records: Mapping[Cell, Record]) -> dict[Cell, float | None]:
    """Return the values of the cells that are through; None for failed ones.

    Args:
        records: of a study.
    """
    return {cell: record.value for cell, record in records.items() if record.state != "running"}


def cell_of(trial: FrozenTrial) -> Cell:
    """Return the cell of a claim.

    Args:
        trial: of a study of ours.
    """
    return Cell(**{name: float(value) for name, value in trial.params.items()})


def failure_key(number: int) -> str:
    """Return the name under which a study keeps the error of a claim.

    Args:
        number: of the claim.
    """
    return f"failure {number}"


def _failure(trial: FrozenTrial, attributes: Mapping[str, Any]) -> str | None:
    """Return the error of a failed trial; None where it is abandoned or to be tried again."""
    kept = attributes.get(failure_key(trial.number))
    return None if kept is None or kept["forgiven"] else str(kept["error"])


def counting(trials: Sequence[FrozenTrial], attributes: Mapping[str, Any]) -> FrozenTrial | None:
    """Return the claim of a cell that counts; None where the cell is open.

    Args:
        trials: claims of one cell.
        attributes: of the study.

    Returns:
        The first that has a value, else the first that runs, else the first that has an error.
    """

    def of_state(name: str) -> Iterator[FrozenTrial]:
        return (trial for trial in trials if trial.state.name == name)

    for trial in (*of_state("COMPLETE"), *of_state("RUNNING")):
        return trial
    for trial in of_state("FAIL"):
        if _failure(trial, attributes) is not None:
            return trial
    return None


def _record(cell: Cell, trial: FrozenTrial, claims: int, attributes: Mapping[str, Any]) -> Record:
    states: dict[str, State] = {"COMPLETE": "done", "RUNNING": "running", "FAIL": "failed"}
    state = states[trial.state.name]
    return Record(
        cell=cell,
        state=state,
        number=trial.number,
        value=trial.value if state == "done" else None,
        error=_failure(trial, attributes) if state == "failed" else None,
        seconds=trial.duration.total_seconds() if trial.duration is not None else None,
        host=str(trial.user_attrs.get("host", "")),
        claims=claims,
    )

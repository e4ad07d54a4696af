# SPDX-License-Identifier: Apache-2.0
"""Claims in a real SQLite storage: who has a cell, and who may take it over."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial

from tests.tuning.fake_cells import ELSEWHERE, GRID, protocol, settings, study
from vitdet_d2.errors import RecipeError, UserError
from vitdet_d2.tuning import storage
from vitdet_d2.tuning.cells import Cell
from vitdet_d2.tuning.liveness import Identity, is_gone, this_process
from vitdet_d2.tuning.storage import folder_url, load_study, open_study, patiently
from vitdet_d2.tuning.study import MAX_ERROR_LENGTH, TuningStudy

CELL, OTHER = GRID.cells(0.0)[:2]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def claimed(of: TuningStudy, cell: Cell = CELL) -> int:
    number = of.claim(cell)
    assert number is not None
    return number


def test_a_cell_is_claimed_once(tmp_path: Path) -> None:
    one, two = (study(tmp_path, protocol()) for _ in range(2))
    assert one.claim(CELL) is not None
    assert two.claim(CELL) is None
    assert one.claim(CELL) is None
    assert two.claim(OTHER) is not None
    assert {record.state for record in one.records().values()} == {"running"}


def test_values_and_errors_are_kept(tmp_path: Path) -> None:
    one = study(tmp_path, protocol())
    assert one.finish(claimed(one), 41.5)
    assert one.fail(claimed(one, OTHER), "loss is NaN" + "!" * 9000)
    records = study(tmp_path, protocol()).records()
    assert (records[CELL].state, records[CELL].value, records[CELL].error) == ("done", 41.5, None)
    error = records[OTHER].error
    assert records[OTHER].state == "failed"
    assert error is not None
    assert error.startswith("loss is NaN!")
    assert len(error) == MAX_ERROR_LENGTH
    assert one.outcomes() == {CELL: 41.5, OTHER: None}


def test_floats_come_back_as_they_were(tmp_path: Path) -> None:
    cells = [
        Cell(lr=1.6e-4 / 3, weight_decay=0.1 + 0.2, drop_path=0.3),
        Cell(lr=1e-20, weight_decay=0.0, drop_path=0.0),
        Cell(lr=1e20, weight_decay=1e20, drop_path=0.999),
    ]
    one = study(tmp_path, protocol())
    for cell in cells:
        claimed(one, cell)
    assert list(study(tmp_path, protocol()).records()) == cells


def test_failed_cells_run_again_only_when_asked(tmp_path: Path) -> None:
    one = study(tmp_path, protocol())
    one.fail(claimed(one), "out of memory")
    assert one.claim(CELL) is None
    assert one.retry_failed() == 1
    assert one.records() == {}
    one.finish(claimed(one), 1.0)
    assert one.records()[CELL].claims == 2
    assert one.retry_failed() == 0


def test_a_released_cell_is_open(tmp_path: Path) -> None:
    one = study(tmp_path, protocol())
    one.release(claimed(one))
    assert one.records() == {}
    assert one.claim(CELL) is not None


def test_many_workers_at_once_never_share_a_cell(tmp_path: Path) -> None:
    num_workers = 6
    workers = [study(tmp_path, protocol()) for _ in range(num_workers)]
    together = threading.Barrier(num_workers)
    got: list[list[Cell]] = [[] for _ in workers]

    def claim_all(index: int) -> None:
        together.wait()
        for cell in GRID.cells(0.0):
            if workers[index].claim(cell) is not None:
                got[index].append(cell)

    threads = [threading.Thread(target=claim_all, args=(i,)) for i in range(num_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    claims = [cell for cells in got for cell in cells]
    assert len(claims) == len(set(claims))
    # A cell for which all stepped back would be open, and be claimed later.
    again = [c for c in GRID.cells(0.0) if c not in claims and workers[0].claim(c) is not None]
    assert sorted(c.key for c in (*claims, *again)) == sorted(c.key for c in GRID.cells(0.0))


def test_workers_that_make_the_storage_together_all_get_it(tmp_path: Path) -> None:
    num_workers = 3
    together = threading.Barrier(num_workers)
    opened = []

    def work() -> None:
        together.wait()
        opened.append(open_study(folder_url(tmp_path), "fake").study_name)

    threads = [threading.Thread(target=work) for _ in range(num_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == ["fake"] * num_workers


def test_the_lower_number_keeps_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both look before either has claimed; then both put in a claim."""
    one, two = (study(tmp_path, protocol()) for _ in range(2))
    monkeypatch.setattr(TuningStudy, "records", lambda _: {})
    first = one.claim(CELL)
    assert first is not None
    assert two.claim(CELL) is None
    monkeypatch.undo()
    assert one.is_mine(first)
    assert one.records()[CELL].claims == 2


CLAIM_AND_DIE = """
import os, sys
from pathlib import Path
from tests.tuning.fake_cells import GRID, protocol, study
assert study(Path(sys.argv[1]), protocol()).claim(GRID.cells(0.0)[0]) is not None
os.kill(os.getpid(), 9)
"""


def test_a_killed_worker_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    one = study(tmp_path, protocol())
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", CLAIM_AND_DIE, str(tmp_path)]
    assert subprocess.run(command, cwd=root, check=False).returncode == -signal.SIGKILL
    assert one.claim(CELL) is None
    assert one.take_over_stale() == [CELL]
    assert one.claim(CELL) is not None


def test_a_silent_worker_of_another_machine_is_replaced_after_the_grace(tmp_path: Path) -> None:
    clock = Clock()
    one = study(tmp_path, protocol(), clock=clock)
    far = study(tmp_path, protocol(), identity=ELSEWHERE)
    number = claimed(far)
    assert one.take_over_stale() == []
    clock.now = 90
    far.beat()
    assert one.take_over_stale() == []
    clock.now = 180
    assert one.take_over_stale() == []
    clock.now = 191
    assert one.take_over_stale() == [CELL]
    assert one.claim(CELL) is not None
    # It was not dead: what it says of its cell comes too late, and does not count.
    assert not far.is_mine(number)
    assert not far.finish(number, 99.0)
    assert one.records()[CELL].state == "running"


def test_a_living_worker_of_this_machine_keeps_its_cell_however_silent(tmp_path: Path) -> None:
    clock = Clock()
    one, two = (study(tmp_path, protocol(), clock=clock) for _ in range(2))
    claimed(one)
    assert two.take_over_stale() == []
    clock.now = 1e6
    assert two.take_over_stale() == []


def test_a_worker_that_comes_while_another_looks_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = study(tmp_path, protocol())
    reads = []
    for name in ("_trials", "_attributes"):
        read = getattr(TuningStudy, name)

        def come_after(self: TuningStudy, read: Callable[..., object] = read) -> object:
            found = read(self)
            reads.append(found)
            if len(reads) == 1:
                claimed(newcomer)
            return found

        monkeypatch.setattr(one, name, come_after.__get__(one))
    newcomer = study(tmp_path, protocol(), identity=ELSEWHERE)
    assert one.take_over_stale() == []
    assert newcomer.records()[CELL].state == "running"


def test_an_error_of_a_claim_that_was_taken_over_does_not_count(tmp_path: Path) -> None:
    one = study(tmp_path, protocol())
    number = claimed(one)
    study(tmp_path, protocol()).release(number)
    assert not one.fail(number, "too late")
    assert one.records() == {}


def test_identity_of_processes() -> None:
    own = this_process()
    assert not is_gone(own)
    assert is_gone(dataclasses.replace(own, started=own.started + 1)), "the number is used again"
    assert not is_gone(dataclasses.replace(own, machine="elsewhere", pid=10**9)), "cannot know"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    told = dataclasses.replace(own, pid=ended.pid)
    ended.wait()
    assert is_gone(told)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"depth": 8.0}, r"study fake is of another recipe.*depth: 4\.0 -> 8\.0.*--output"),
        ({"depth": 4.0, "width": 2.0}, r"width: none -> 2\.0"),
    ],
)
def test_a_study_of_another_recipe_is_refused(
    tmp_path: Path, recipe: dict[str, float], message: str
) -> None:
    study(tmp_path, protocol())
    with pytest.raises(RecipeError, match=message):
        study(tmp_path, protocol(), recipe=recipe)


def test_a_study_of_another_grid_is_refused(tmp_path: Path) -> None:
    study(tmp_path, protocol())
    with pytest.raises(RecipeError, match=r"protocol\.max_extensions: 3 -> 1"):
        study(tmp_path, protocol(max_extensions=1))


def test_a_study_begun_twice_at_once_is_refused(tmp_path: Path) -> None:
    of = protocol()
    one = study(tmp_path, of)
    claimed(one)
    # As if both had found no settings, and the other had written last.
    other = settings(of, {"depth": 8.0})
    one.study.set_user_attr("settings", other.as_json())
    two = TuningStudy(open_study(folder_url(tmp_path), "fake"), other, grace_seconds=1)
    with pytest.raises(RecipeError, match="begun twice at once"):
        two.claim(OTHER)


def test_a_missing_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no tuning study in .*study\.db"):
        load_study(folder_url(tmp_path), None)
    assert not list(tmp_path.iterdir())
    study(tmp_path, protocol())
    with pytest.raises(RecipeError, match=r"holds 2 tuning studies \(fake, none\): not real"):
        load_study(folder_url(tmp_path), "real")
    with pytest.raises(RecipeError, match=r"fake, none.*name one"):
        load_study(folder_url(tmp_path), None)


def test_workers_without_a_start_time_are_judged_by_silence(tmp_path: Path) -> None:
    clock = Clock()
    odd = Identity(machine=this_process().machine, host="here", pid=1, started=0)
    claimed(study(tmp_path, protocol(), identity=odd))
    one = study(tmp_path, protocol(), clock=clock)
    assert one.take_over_stale() == []
    clock.now = 101
    assert one.take_over_stale() == [CELL]


def test_a_storage_in_trouble_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", pauses.append)
    answers: list[Exception | int] = [StorageInternalError("locked")] * 2 + [7]

    def call() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call, (1.0, 2.0, 3.0)) == 7
    assert pauses == [1.0, 2.0]
    answers[:] = [StorageInternalError("gone")] * 3
    with pytest.raises(UserError, match=r"does not answer any more: gone.*same command"):
        patiently(call, (1.0, 2.0))


@pytest.mark.parametrize("is_in", [True, False])
def test_a_claim_whose_answer_is_lost_counts_where_it_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_in: bool
) -> None:
    one = study(tmp_path, protocol())
    add_trial = one.study.add_trial

    def add(trial: FrozenTrial) -> None:
        if is_in:
            add_trial(trial)
        raise StorageInternalError("connection lost")

    monkeypatch.setattr(one.study, "add_trial", add)
    assert (one.claim(CELL) is not None) == is_in
    assert (CELL in one.records()) == is_in

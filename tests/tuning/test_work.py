# SPDX-License-Identifier: Apache-2.0
"""Workers on fake cells."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from tests.tuning.fake_cells import FakeCells, protocol, study, worker
from vitdet_d2.errors import StoppedBySignal
from vitdet_d2.tuning.cells import Cell, Grid

SMALL = Grid(lrs=(1.0, 2.0), weight_decays=(0.1, 0.2))
OF = protocol(SMALL, drop_paths=(0.0, 0.1))


def value(cell: Cell) -> float:
    return cell.lr + cell.weight_decay + cell.drop_path


def test_all_stages_run_and_no_cell_twice(tmp_path: Path) -> None:
    cells = FakeCells(value)
    known = worker(study(tmp_path, OF), OF, cells).work()
    assert len(cells.cells) == len(set(cells.cells)) == 5
    assert known[-1].best == Cell(lr=2.0, weight_decay=0.2, drop_path=0.1)
    # A second command finds nothing to do, and the same winner.
    more = FakeCells(value)
    assert worker(study(tmp_path, OF), OF, more).work() == known
    assert more.cells == []


def test_a_killed_study_runs_exactly_the_other_cells(
    tmp_path: Path,
) -> None:
    class Killed(BaseException):
        pass

    for count in (0, 3):
        folder = tmp_path / str(count)
        folder.mkdir()
        cells = FakeCells(value)

        def start(cell: Cell, slot: int, cells: FakeCells = cells, count: int = count) -> object:
            if len(cells.cells) == count:
                raise Killed
            return cells(cell, slot)

        with pytest.raises(Killed):
            worker(study(folder, OF), OF, start).work()  # type: ignore[arg-type]
        dead = study(folder, OF)
        for record in dead.records().values():
            if record.state == "running":
                dead.release(record.number)
        rest = FakeCells(value)
        worker(study(folder, OF), OF, rest).work()
        assert len(cells.cells) == count
        assert len({*cells.cells, *rest.cells}) == count + len(rest.cells) == 5


def test_failed_cells_do_not_end_the_study(tmp_path: Path) -> None:
    def diverges(cell: Cell) -> float | str:
        return "NaN in iteration 3" if cell.lr == 2.0 and cell.drop_path == 0 else value(cell)

    said: list[str] = []
    one = study(tmp_path, OF)
    known = worker(one, OF, FakeCells(diverges), said=said).work()
    assert known[-1].best == Cell(lr=1.0, weight_decay=0.2, drop_path=0.1)
    failed = [record for record in one.records().values() if record.state == "failed"]
    assert [record.error for record in failed] == ["NaN in iteration 3"] * 2
    assert sum("failed: NaN in iteration 3" in line for line in said) == 2


def test_slots_are_used_side_by_side(tmp_path: Path) -> None:
    cells = FakeCells(value, polls=3)
    worker(study(tmp_path, OF), OF, cells, last=1, slots=2).work()
    assert [slot for _, slot in cells.started[:2]] == [0, 1]
    assert {slot for _, slot in cells.started} == {0, 1}
    assert len(cells.cells) == 4


def test_two_workers_share_a_study(tmp_path: Path) -> None:
    all_cells = [FakeCells(value, polls=2) for _ in range(3)]
    results = []

    def work(cells: FakeCells) -> None:
        results.append(worker(study(tmp_path, OF), OF, cells).work())

    threads = [threading.Thread(target=work, args=(cells,)) for cells in all_cells]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ran = [cell for cells in all_cells for cell in cells.cells]
    assert len(ran) == len(set(ran)) == 5
    assert results[0] == results[1] == results[2]


def test_a_stop_signal_gives_cells_back(tmp_path: Path) -> None:
    cells = FakeCells(value, polls=10**6)

    def stop_signal() -> int:
        return signal.SIGTERM if cells.jobs else 0

    one = study(tmp_path, OF)
    with pytest.raises(StoppedBySignal, match=r"SIGTERM.*the same command") as raised:
        worker(one, OF, cells, slots=2, stop_signal=stop_signal).work()
    assert raised.value.exit_code == 143
    assert [job.was_stopped for job in cells.jobs] == [True, True]
    assert one.records() == {}


def test_a_cell_stopped_from_outside_is_a_failed_one(tmp_path: Path) -> None:
    cells = FakeCells(value, polls=10**6)
    one = study(tmp_path, OF)

    def sleep(_: float) -> None:
        for job in cells.jobs:
            job.stop()

    worker(one, OF, cells, last=1, sleep=sleep).work()
    assert {record.state for record in one.records().values()} == {"failed"}
    assert len(cells.cells) == 4


def test_cells_of_a_crashing_worker_are_killed_and_open(tmp_path: Path) -> None:
    cells = FakeCells(value, polls=10**6)
    one = study(tmp_path, OF)

    def sleep(_: float) -> None:
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        worker(one, OF, cells, sleep=sleep).work()
    assert cells.jobs[0].was_killed
    assert one.records() == {}


def test_a_cell_that_was_taken_over_is_dropped(tmp_path: Path) -> None:
    """This worker seemed dead to another one, which has claimed its cell meanwhile."""
    one, two = study(tmp_path, OF), study(tmp_path, OF)
    cells = FakeCells(value, polls=10**6)
    said: list[str] = []
    done = []

    def sleep(_: float) -> None:
        if not done:
            done.append(one.records()[cells.cells[0]].number)
            two.release(done[0])
            number = two.claim(cells.cells[0])
            assert number is not None
            two.finish(number, 7.0)
        else:
            for job in cells.jobs:
                job.polls = 0

    worker(one, OF, cells, last=1, said=said, sleep=sleep).work()
    assert cells.jobs[0].was_killed
    assert any("taken over by another worker" in line for line in said)
    assert one.records()[cells.cells[0]].value == 7.0
    assert len(cells.cells) == 4

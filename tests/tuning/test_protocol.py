# SPDX-License-Identifier: Apache-2.0
"""The protocol as a function; here a landscape of made-up AP stands for training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from tests.tuning.fake_cells import GRID, protocol
from vitdet_d2.tuning.cells import Cell, Grid
from vitdet_d2.tuning.protocol import Protocol, Stage, StageNumber, stages


def hill(lr: float, weight_decay: float, drop_path: float = 0.1) -> Callable[[Cell], float]:
    """AP that falls off, per doubling, from a summit."""

    def value(cell: Cell) -> float:
        distance = abs(math.log2(cell.lr / lr)) + abs(math.log2(cell.weight_decay / weight_decay))
        return 50 - distance - 10 * abs(cell.drop_path - drop_path)

    return value


def run_to_the_end(
    of: Protocol, value: Callable[[Cell], float | None], last: StageNumber = 2
) -> tuple[list[Stage], list[Cell]]:
    """Run every open cell until none is; return the stages and the cells in their order."""
    outcomes: dict[Cell, float | None] = {}
    order = []
    while True:
        known = stages(of, outcomes, last)
        if not known[-1].open:
            return known, order
        for cell in known[-1].open:
            assert cell not in outcomes, "no cell runs twice"
            outcomes[cell] = value(cell)
            order.append(cell)


def test_nine_cells_then_drop_path_at_the_best_pair() -> None:
    of = protocol(drop_paths=(0.0, 0.1, 0.2, 0.3))
    (first, second), order = run_to_the_end(of, hill(2.0, 0.2))
    assert len(first.cells) == 9
    assert first.extensions == 0
    assert {cell.drop_path for cell in order[:9]} == {0.0}
    # The cell without drop path has run in stage 1.
    assert [(c.lr, c.weight_decay, c.drop_path) for c in order[9:]] == [
        (2.0, 0.2, 0.1),
        (2.0, 0.2, 0.2),
        (2.0, 0.2, 0.3),
    ]
    assert second.best == Cell(lr=2.0, weight_decay=0.2, drop_path=0.1)


def test_grid_grows_until_the_best_lies_inside() -> None:
    (first,), order = run_to_the_end(protocol(), hill(8.0, 0.2), last=1)
    assert first.grid == Grid(lrs=(1.0, 2.0, 4.0, 8.0, 16.0), weight_decays=(0.1, 0.2, 0.4))
    assert first.extensions == 2
    assert not first.on_border
    assert len(order) == 15


def test_growing_is_bounded_and_the_border_is_told() -> None:
    (first,), order = run_to_the_end(protocol(max_extensions=2), hill(1024.0, 0.2), last=1)
    assert first.extensions == 2
    assert first.on_border
    assert first.best == Cell(lr=16.0, weight_decay=0.2, drop_path=0.0)
    assert len(order) == 15


def test_a_corner_grows_both_ways_at_once() -> None:
    (first,), order = run_to_the_end(protocol(), hill(4.0, 0.4), last=1)
    assert first.grid == Grid(lrs=(1.0, 2.0, 4.0, 8.0), weight_decays=(0.1, 0.2, 0.4, 0.8))
    assert len(order) == 16


def test_two_by_two_stays_so() -> None:
    of = protocol(Grid(lrs=(1.0, 2.0), weight_decays=(0.1, 0.2)))
    (first,), order = run_to_the_end(of, hill(64.0, 0.2), last=1)
    assert len(order) == 4
    assert not first.on_border


def test_diverged_cells_are_no_reason_to_go_on() -> None:
    def value(cell: Cell) -> float | None:
        return None if cell.lr > 4.0 else hill(8.0, 0.2)(cell)

    (first,), _ = run_to_the_end(protocol(), value, last=1)
    assert first.best == Cell(lr=4.0, weight_decay=0.2, drop_path=0.0)
    assert first.extensions == 1


def test_nothing_is_chosen_where_all_failed() -> None:
    known, order = run_to_the_end(protocol(), lambda _: None)
    assert len(known) == 1
    assert known[0].best is None
    assert len(order) == 9


def test_stage_3_chooses_drop_path_only() -> None:
    of = Protocol(grid=None, drop_paths=(0.0, 0.1, 0.2), pair=(3.0, 0.3))
    (third,), order = run_to_the_end(of, hill(1.0, 0.1, 0.2), last=3)
    assert third.number == 3
    assert third.best == Cell(lr=3.0, weight_decay=0.3, drop_path=0.2)
    assert len(order) == 3


def test_description_survives_json() -> None:
    for of in (protocol(), Protocol(grid=None, drop_paths=(0.1,), pair=(1e-4, 0.1))):
        assert Protocol.from_description(json.loads(json.dumps(of.describe()))) == of


def test_equal_values_do_not_grow_the_grid() -> None:
    (first,), order = run_to_the_end(protocol(GRID), lambda _: 0.0, last=1)
    assert first.best == Cell(lr=2.0, weight_decay=0.2, drop_path=0.0)
    assert len(order) == 9

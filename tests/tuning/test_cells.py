# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vitdet_d2.tuning.cells import Cell, Grid, best_cell, centred

GRID = Grid(lrs=(1e-4, 2e-4, 4e-4), weight_decays=(0.05, 0.1, 0.2))


def cell(lr: float, weight_decay: float) -> Cell:
    return Cell(lr=lr, weight_decay=weight_decay, drop_path=0.0)


def test_centre_of_the_protocol_is_halved_and_doubled() -> None:
    assert centred(1.6e-4) == (8e-5, 1.6e-4, 3.2e-4)
    assert centred(0.1) == (0.05, 0.1, 0.2)


def test_grid_has_every_pair_once() -> None:
    cells = GRID.cells(0.0)
    assert len(set(cells)) == len(cells) == 9
    assert cells[1] == cell(1e-4, 0.1)


@pytest.mark.parametrize(
    ("best", "lrs", "weight_decays"),
    [
        ((2e-4, 0.1), GRID.lrs, GRID.weight_decays),
        ((4e-4, 0.1), (*GRID.lrs, 8e-4), GRID.weight_decays),
        ((1e-4, 0.1), (5e-5, *GRID.lrs), GRID.weight_decays),
        ((2e-4, 0.2), GRID.lrs, (*GRID.weight_decays, 0.4)),
        ((4e-4, 0.05), (*GRID.lrs, 8e-4), (0.025, *GRID.weight_decays)),
    ],
)
def test_grid_grows_beyond_the_border_of_the_best(
    best: tuple[float, float], lrs: tuple[float, ...], weight_decays: tuple[float, ...]
) -> None:
    assert GRID.extended(cell(*best)) == Grid(lrs=lrs, weight_decays=weight_decays)


def test_axes_without_an_inside_do_not_grow() -> None:
    grid = Grid(lrs=(1e-4, 2e-4), weight_decays=(0.1,))
    assert grid.extended(cell(2e-4, 0.1)) == grid


def test_no_weight_decay_is_an_end_that_cannot_be_passed() -> None:
    grid = Grid(lrs=(2e-4,), weight_decays=(0.0, 0.1, 0.2))
    assert grid.extended(cell(2e-4, 0.0)) == grid


def test_growing_by_other_ratios_keeps_them() -> None:
    grid = Grid(lrs=(1.0, 3.0, 9.0), weight_decays=(0.1,))
    assert grid.extended(cell(9.0, 0.1)).lrs == (1.0, 3.0, 9.0, 27.0)


def test_values_reached_on_two_ways_are_one_cell() -> None:
    wider = Grid(lrs=(0.1, 0.2, 0.4), weight_decays=(0.3,)).extended(cell(0.4, 0.3))
    assert wider.lrs[-1] == 0.8
    assert cell(wider.lrs[-1], 0.3).key == "lr0.8_wd0.3_dp0"


def test_best_is_the_highest_and_failed_ones_never_are() -> None:
    values = {cell(1e-4, 0.1): 3.0, cell(2e-4, 0.1): 5.0, cell(4e-4, 0.1): None}
    assert best_cell(GRID.cells(0.0), values, GRID) == cell(2e-4, 0.1)
    assert best_cell(GRID.cells(0.0), {cell(1e-4, 0.1): None}, GRID) is None


def test_among_equals_the_middle_wins() -> None:
    assert best_cell(GRID.cells(0.0), dict.fromkeys(GRID.cells(0.0), 0.0), GRID) == cell(2e-4, 0.1)


def test_among_equals_as_central_the_gentler_wins() -> None:
    values = {cell(1e-4, 0.1): 1.0, cell(4e-4, 0.1): 1.0}
    assert best_cell(reversed(GRID.cells(0.0)), values, GRID) == cell(1e-4, 0.1)

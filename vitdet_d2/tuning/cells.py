# SPDX-License-Identifier: Apache-2.0
"""Cells and grids of a tuning study.

Vocabulary:
    cell: one training, by learning rate, weight decay and drop path rate. Never run twice.
    pair: learning rate and weight decay.
    grid: all pairs of some learning rates and some weight decays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Of a 3x3 grid "each doubled and halved".
STEP = 2.0
# An axis of one or two values has no inside, hence no border to be extended.
MIN_EXTENDABLE = 3


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of a study.

    Attributes:
        lr: learning rate, above 0.
        weight_decay: at least 0.
        drop_path: rate, in [0, 1).
    """

    lr: float
    weight_decay: float
    drop_path: float

    @property
    def key(self) -> str:
        """Name of the cell in storages and of its folder; two cells never share one."""
        return f"lr{self.lr:.12g}_wd{self.weight_decay:.12g}_dp{self.drop_path:.12g}"

    @property
    def text(self) -> str:
        """The cell in words, for messages."""
        return f"lr {self.lr:g}, weight decay {self.weight_decay:g}, drop path {self.drop_path:g}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Learning rates times weight decays, both ascending."""

    lrs: tuple[float, ...]
    weight_decays: tuple[float, ...]

    def cells(self, drop_path: float) -> tuple[Cell, ...]:
        """Return the cells of the grid, learning rates slowest.

        Args:
            drop_path: of all of them.
        """
        return tuple(
            Cell(lr=lr, weight_decay=weight_decay, drop_path=drop_path)
            for lr in self.lrs
            for weight_decay in self.weight_decays
        )

    def extended(self, best: Cell) -> Grid:
        """Return the grid with a further value beyond each border on which the best cell lies.

        Args:
            best: one of its cells.

        Returns:
            The same grid where the best cell lies inside, or where an axis has no inside.
        """
        return Grid(
            lrs=_extended(self.lrs, best.lr),
            weight_decays=_extended(self.weight_decays, best.weight_decay),
        )

    def eccentricity(self, cell: Cell) -> float:
        """Return how far from the middle a cell lies, in steps along both axes together.

        Args:
            cell: one of the grid's.
        """
        return _from_middle(self.lrs, cell.lr) + _from_middle(self.weight_decays, cell.weight_decay)


def centred(centre: float) -> tuple[float, float, float]:
    """Return a value halved, itself, and doubled.

    Args:
        centre: above 0.
    """
    return (_rounded(centre / STEP), _rounded(centre), _rounded(centre * STEP))


def best_cell(
    cells: Iterable[Cell], values: Mapping[Cell, float | None], grid: Grid | None = None
) -> Cell | None:
    """Return the cell of the highest value; among equals the most central, then the gentlest.

    Args:
        cells: to choose from.
        values: by cell; cells without a value (None, or missing) are never the best.
        grid: of the cells, which decides what is central.
    """

    def rank(cell: Cell) -> tuple[float, ...]:
        value = values[cell]
        assert value is not None, "cells without a value are left out"
        off_centre = grid.eccentricity(cell) if grid is not None else 0.0
        return (value, -off_centre, -cell.lr, -cell.weight_decay, -cell.drop_path)

    return max((cell for cell in cells if values.get(cell) is not None), key=rank, default=None)


def _extended(values: tuple[float, ...], best: float) -> tuple[float, ...]:
    """Go on by the ratio of the two outermost values."""
    if len(values) < MIN_EXTENDABLE:
        return values
    if best == values[0] and best > 0:  # below 0 there is nothing
        return (_rounded(values[0] * values[0] / values[1]), *values)
    if best == values[-1]:
        return (*values, _rounded(values[-1] * values[-1] / values[-2]))
    return values


def _from_middle(values: tuple[float, ...], value: float) -> float:
    return abs(values.index(value) - (len(values) - 1) / 2)


def _rounded(value: float) -> float:
    # 3 * 0.1 is 0.30000000000000004; a value reached on two ways must be one cell.
    return float(f"{value:.12g}")

# SPDX-License-Identifier: Apache-2.0
"""What a study runs next: a function of its settings and of what is known so far, nothing else.

Every worker of a study, on whatever machine, comes to the same answer.

Source: "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv 2111.11429,
the tuning protocol: stage 1, without drop path, a grid over learning rate and weight decay that
grows until the best pair lies inside; stage 2, drop path at the best pair; stage 3, larger models
take the pair of the base model and choose drop path only. The values of the grid are from memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vitdet_d2.tuning.cells import Cell, Grid, best_cell

CENTRE_LR, CENTRE_WEIGHT_DECAY = 1.6e-4, 0.1
DROP_PATHS = (0.0, 0.1, 0.2, 0.3)
MAX_EXTENSIONS = 3
# Of stage 1.
NO_DROP_PATH = 0.0

StageNumber = Literal[1, 2, 3]
Outcomes = Mapping[Cell, float | None]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings of a study.

    Attributes:
        grid: of stage 1 before it is extended; None: stage 3, which has a pair.
        drop_paths: of stages 2 and 3, ascending.
        max_extensions: how often the grid may grow.
        pair: learning rate and weight decay of another study, for stage 3.
    """

    grid: Grid | None
    drop_paths: tuple[float, ...]
    max_extensions: int = MAX_EXTENSIONS
    pair: tuple[float, float] | None = None

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return asdict(self)

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> Protocol:
        """Return the protocol of which `describe` returned this.

        Args:
            described: plain data, which may have been JSON in between.
        """
        grid, pair = described["grid"], described["pair"]
        return cls(
            grid=None
            if grid is None
            else Grid(lrs=tuple(grid["lrs"]), weight_decays=tuple(grid["weight_decays"])),
            drop_paths=tuple(described["drop_paths"]),
            max_extensions=int(described["max_extensions"]),
            pair=None if pair is None else (pair[0], pair[1]),
        )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage as far as it is known.

    Attributes:
        number: 1, 2 or 3.
        cells: all that it has by now, those that ran before it included.
        open: those without an outcome.
        best: the chosen cell; None while cells are open, and where all failed.
        grid: of stage 1, with its extensions.
        extensions: how often the grid has grown.
        on_border: the best cell lies on the border, and the grid may not grow any more.
    """

    number: StageNumber
    cells: tuple[Cell, ...]
    open: tuple[Cell, ...]
    best: Cell | None
    grid: Grid | None = None
    extensions: int = 0
    on_border: bool = False


def stages(protocol: Protocol, outcomes: Outcomes, last: StageNumber) -> list[Stage]:
    """Return the stages that have begun; the last one has what is to be run next.

    Args:
        protocol: the settings.
        outcomes: of the cells that are through; None: failed.
        last: the stage after which the study ends.
    """
    if protocol.pair is not None:
        return [_drop_path_stage(protocol, protocol.pair, outcomes, 3)]
    first = _grid_stage(protocol, outcomes)
    if last == 1 or first.best is None:
        return [first]
    pair = (first.best.lr, first.best.weight_decay)
    return [first, _drop_path_stage(protocol, pair, outcomes, 2)]


def _grid_stage(protocol: Protocol, outcomes: Outcomes) -> Stage:
    assert protocol.grid is not None, "a study without a pair has a grid"
    grid, extensions = protocol.grid, 0
    while True:
        cells = grid.cells(NO_DROP_PATH)
        remaining = tuple(cell for cell in cells if cell not in outcomes)
        best = None if remaining else best_cell(cells, outcomes, grid)
        wider = grid if best is None else grid.extended(best)
        if wider == grid or extensions == protocol.max_extensions:
            return Stage(
                number=1, cells=cells, open=remaining, best=best, grid=grid,
                extensions=extensions, on_border=wider != grid,
            )  # fmt: skip
        grid, extensions = wider, extensions + 1


def _drop_path_stage(
    protocol: Protocol, pair: tuple[float, float], outcomes: Outcomes, number: StageNumber
) -> Stage:
    lr, weight_decay = pair
    cells = tuple(
        Cell(lr=lr, weight_decay=weight_decay, drop_path=rate) for rate in protocol.drop_paths
    )
    remaining = tuple(cell for cell in cells if cell not in outcomes)
    best = None if remaining else best_cell(cells, outcomes)
    return Stage(number=number, cells=cells, open=remaining, best=best)

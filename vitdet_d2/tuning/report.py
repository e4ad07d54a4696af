# SPDX-License-Identifier: Apache-2.0
"""What a study says in the end: table, grid, winner; as text and as plain data."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitdet_d2.engine.text_tables import aligned
from vitdet_d2.tuning.cell_process import CellRunner
from vitdet_d2.tuning.cells import Cell, Grid
from vitdet_d2.tuning.protocol import Stage
from vitdet_d2.tuning.records import Record

Records = dict[Cell, Record]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A study as it stands.

    Attributes:
        name: of the study.
        storage: address of its storage, without password.
        stages: as far as they have begun.
        records: of its cells.
        runner: that makes their commands.
        heat_map: file of the drawn grid, if there is one.
    """

    name: str
    storage: str
    stages: list[Stage]
    records: Records
    runner: CellRunner
    heat_map: Path | None = None

    @property
    def winner(self) -> Cell | None:
        """The best cell of the last stage that is through; None where there is none."""
        chosen = [stage.best for stage in self.stages if stage.best is not None]
        return chosen[-1] if chosen else None

    @property
    def is_complete(self) -> bool:
        """Whether the stages that have begun are through."""
        return not self.stages[-1].open

    def command(self, cell: Cell) -> str:
        """Return the command that trains with a cell's values for as long as the recipe says.

        Args:
            cell: the winner.
        """
        changes = (*self.runner.overrides, *self.runner.keys.overrides(cell))
        return shlex.join(["vitdet", *self.runner.training, *changes])

    def as_data(self) -> dict[str, Any]:
        """Return the report as plain data."""
        winner = self.winner
        return {
            "study": self.name,
            "storage": self.storage,
            "recipe": self.runner.recipe,
            "metric": self.runner.metric,
            "objective": self.runner.objective,
            "complete": self.is_complete,
            "stages": [self._stage(stage) for stage in self.stages],
            "winner": None if winner is None else self._winner(winner),
            "heat_map": None if self.heat_map is None else str(self.heat_map),
        }

    def as_text(self) -> str:
        """Return the report for the terminal."""
        blocks = [self._table(), *self._failures()]
        for stage in self.stages:
            if stage.grid is not None:
                blocks.append(text_heat_map(stage.grid, self.records, stage.best))
        blocks.append(self._ending())
        return "\n\n".join(blocks)

    def _stage(self, stage: Stage) -> dict[str, Any]:
        return {
            "stage": stage.number,
            "complete": not stage.open,
            "lr": None if stage.grid is None else list(stage.grid.lrs),
            "weight_decay": None if stage.grid is None else list(stage.grid.weight_decays),
            "extensions": stage.extensions,
            "best_on_border": stage.on_border,
            "best": None if stage.best is None else _values(stage.best),
            "cells": [self._cell(cell) for cell in stage.cells],
        }

    def _cell(self, cell: Cell) -> dict[str, Any]:
        record = self.records.get(cell)
        facts: dict[str, Any] = {"state": "open"}
        if record is not None:
            facts = {
                "state": record.state,
                "value": record.value,
                "error": record.error,
                "seconds": record.seconds,
                "host": record.host,
                "claims": record.claims,
            }
        return {**_values(cell), **facts, "folder": str(self.runner.folder(cell))}

    def _winner(self, cell: Cell) -> dict[str, Any]:
        return {
            **_values(cell),
            "value": self.records[cell].value,
            "command": self.command(cell),
            "cell_command": self.runner.command(cell),
        }

    def _table(self) -> str:
        rows = [("stage", "lr", "weight decay", "drop path", self.runner.metric, "state", "time")]
        rows += [
            (str(stage.number), *self._row(cell, stage)) for stage in self.stages
            for cell in stage.cells
        ]  # fmt: skip
        return "\n".join(aligned(rows))

    def _row(self, cell: Cell, stage: Stage) -> tuple[str, str, str, str, str, str]:
        record = self.records.get(cell)
        value = "" if record is None or record.value is None else f"{record.value:.4g}"
        state = "open" if record is None else record.state
        seconds = "" if record is None or record.seconds is None else f"{record.seconds:.0f} s"
        mark = " *" if cell == stage.best else ""
        numbers = (f"{cell.lr:g}", f"{cell.weight_decay:g}", f"{cell.drop_path:g}")
        return (*numbers, value + mark, state, seconds)

    def _failures(self) -> list[str]:
        shown = {cell for stage in self.stages for cell in stage.cells}
        lines = [
            f"failed: {cell.text}: {record.error} (log: {self.runner.log(cell)})"
            for cell, record in self.records.items()
            if record.state == "failed" and cell in shown
        ]
        return ["\n".join(lines)] if lines else []

    def _ending(self) -> str:
        lines = []
        if any(stage.on_border for stage in self.stages):
            lines.append(
                "The best pair lies on the border of the grid, which has grown as often as it may "
                "(--max-extensions)."
            )
        if self.heat_map is not None:
            lines.append(f"Heat map: {self.heat_map}")
        winner = self.winner
        if winner is None:
            lines.append("No cell has won yet." if not self.is_complete else "All cells failed.")
            return "\n".join(lines)
        lines += [
            f"{'Winner' if self.is_complete else 'Best so far'}: {winner.text}: "
            f"{self.runner.metric} {self.records[winner].value:.4g}",
            "Train with it, as long as the recipe says:",
            f"  {self.command(winner)}",
            "The cell itself was:",
            f"  {self.runner.command(winner)}",
        ]
        return "\n".join(lines)


def text_heat_map(grid: Grid, records: Records, best: Cell | None) -> str:
    """Return the grid of stage 1 as text, weight decays across, learning rates down.

    Args:
        grid: of the stage.
        records: of the study.
        best: marked with a star.
    """

    def shown(cell: Cell) -> str:
        record = records.get(cell)
        if record is None:
            return "-"
        if record.value is None:
            return record.state
        return f"{record.value:.4g}{' *' if cell == best else ''}"

    cells = grid.cells(0.0)
    width = len(grid.weight_decays)
    rows = [["lr \\ weight decay", *(f"{value:g}" for value in grid.weight_decays)]]
    for index, lr in enumerate(grid.lrs):
        row = cells[index * width : (index + 1) * width]
        rows.append([f"{lr:g}", *(shown(cell) for cell in row)])
    return "\n".join(aligned(rows))


def _values(cell: Cell) -> dict[str, float]:
    return {"lr": cell.lr, "weight_decay": cell.weight_decay, "drop_path": cell.drop_path}

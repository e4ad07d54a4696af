# SPDX-License-Identifier: Apache-2.0
"""The grid of a study as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from vitdet_d2.analysis.plots import new_figure, save_figure
from vitdet_d2.tuning.cells import Cell, Grid

_INCHES_PER_CELL = 1.1
# Text is white on the dark lower part of the colour map.
_DARK_SHARE = 0.5
# Of a frame's side, just inside of its cell.
_HALF = 0.48


def draw_heat_map(
    grid: Grid,
    values: Mapping[Cell, float | None],
    best: Cell | None,
    *,
    metric: str,
    title: str,
    path: Path,
) -> None:
    """Draw a grid: learning rates downwards, weight decays across, the best cell framed.

    Args:
        grid: of stage 1, without drop path.
        values: by cell; None: failed; missing: not run.
        best: framed.
        metric: name of the values.
        title: of the figure.
        path: file to write; its ending decides the format.

    Raises:
        UserError: it cannot be written.
    """
    columns, cells = len(grid.weight_decays), grid.cells(0.0)
    numbers = [values.get(cell) for cell in cells]
    shades = [math.nan if value is None else value for value in numbers]
    known = [value for value in numbers if value is not None]
    figure = new_figure(
        2.2 + _INCHES_PER_CELL * columns, 1.4 + 0.7 * _INCHES_PER_CELL * len(grid.lrs)
    )
    axes = figure.subplots()
    rows = [shades[i : i + columns] for i in range(0, len(shades), columns)]
    image = axes.imshow(rows, cmap="viridis", aspect="auto")
    middle = min(known) + _DARK_SHARE * (max(known) - min(known)) if known else 0.0
    for index, (cell, value) in enumerate(zip(cells, numbers, strict=True)):
        row, column = divmod(index, columns)
        text = ("failed" if cell in values else "") if value is None else f"{value:.3g}"
        dark = value is not None and value <= middle
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
        if cell == best:
            xs = [column + side for side in (-_HALF, _HALF, _HALF, -_HALF, -_HALF)]
            ys = [row + side for side in (-_HALF, -_HALF, _HALF, _HALF, -_HALF)]
            axes.plot(xs, ys, color="red", linewidth=2.5)
    axes.set_xticks(range(columns), [f"{value:g}" for value in grid.weight_decays])
    axes.set_yticks(range(len(grid.lrs)), [f"{value:g}" for value in grid.lrs])
    axes.set_xlabel("weight decay")
    axes.set_ylabel("learning rate")
    axes.set_title(title)
    if known:
        figure.colorbar(image, ax=axes, label=metric)
    save_figure(figure, path)

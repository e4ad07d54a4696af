# SPDX-License-Identifier: Apache-2.0
"""The growth of time and memory as a picture: a column per dimension, a line per side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdet_d2.analysis.bench.case import Side
from vitdet_d2.analysis.bench.growth import DIMENSIONS, Series
from vitdet_d2.analysis.bench.outcome import CaseOutcome
from vitdet_d2.analysis.plots import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES: tuple[tuple[Side, str], ...] = (("ours", "vitdet_d2"), ("shipped", "Detectron2"))
_PANEL = (4.0, 3.0)  # inches


def draw_growth(series: Series) -> Figure:
    """Draw seconds per image above gigabytes, over every dimension with more than one point.

    Args:
        series: of `measure_growth`.
    """
    shown = {name: rows for name, rows in series.items() if len(rows) > 1}
    count = max(1, len(shown))
    figure = new_figure(_PANEL[0] * count, _PANEL[1] * 2)
    panels = figure.subplots(2, count, squeeze=False)
    for column, (name, rows) in enumerate(shown.items()):
        for panel, quantity, label in zip(
            panels[:, column], (_seconds, _gigabytes), ("seconds per run", "peak memory (GB)"),
            strict=True,
        ):  # fmt: skip
            _draw(panel, rows, quantity)
            panel.set_xlabel(DIMENSIONS[name])
            panel.set_ylabel(label)
    if shown:
        panels[0][0].legend(frameon=False)
    return figure


def plot_growth(series: Series, path: Path) -> None:
    """Write the picture.

    Args:
        series: of `measure_growth`.
        path: of the picture.

    Raises:
        UserError: it cannot be written.
    """
    save_figure(draw_growth(series), path)


def _draw(panel: Any, rows: Sequence[tuple[str, CaseOutcome]], quantity: Any) -> None:
    """Draw one line per side; a place where a side failed has a cross on the axis."""
    for (side, label), colour in zip(_LINES, COLOURS, strict=False):
        found = [quantity(outcome, side) for _, outcome in rows]
        points = [(i, value) for i, value in enumerate(found) if value is not None]
        panel.plot(*zip(*points, strict=True) if points else ((), ()), marker="o", color=colour,
                   label=label)  # fmt: skip
        failed = [i for i, (_, o) in enumerate(rows) if _failed(o, side)]
        panel.plot(failed, [0.0] * len(failed), "x", color=colour)
    panel.set_xticks(range(len(rows)), [label for label, _ in rows])
    panel.set_ylim(bottom=0)
    panel.spines[["top", "right"]].set_visible(False)


def _failed(outcome: CaseOutcome, side: Side) -> bool:
    return side in outcome.sides and outcome.sides[side].error is not None


def _seconds(outcome: CaseOutcome, side: Side) -> float | None:
    found = outcome.sides.get(side)
    return None if found is None or found.seconds is None else found.seconds * found.units


def _gigabytes(outcome: CaseOutcome, side: Side) -> float | None:
    found = outcome.sides.get(side)
    return None if found is None or found.peak_bytes is None else found.peak_bytes / 1e9

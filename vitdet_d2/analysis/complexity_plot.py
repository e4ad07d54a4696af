# SPDX-License-Identifier: Apache-2.0
"""Costs of recipes as a picture: parameters and FLOPs by part, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdet_d2.analysis.complexity import Row, used_parts
from vitdet_d2.analysis.job import Phase
from vitdet_d2.analysis.parts import TITLES
from vitdet_d2.analysis.plots import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PHASES: tuple[Phase, ...] = ("inference", "training")
_PANEL_WIDTH = 4.2  # inches
_BAR_HEIGHT = 0.35
_FRAME_HEIGHT = 1.7


def draw_complexity(rows: Sequence[Row]) -> Figure:
    """Draw a panel of bars for every quantity, one bar or pair of bars per recipe.

    Args:
        rows: at least one of them counted.
    """
    shown = [row for row in rows if row.count is not None]
    measured = any(o.seconds is not None for row in shown for o in row.measured.values())
    count = 4 if measured else 2
    width, height = _PANEL_WIDTH * count, _FRAME_HEIGHT + _BAR_HEIGHT * 2 * len(shown)
    figure = new_figure(width, height)
    panels = figure.subplots(1, count, sharey=True)
    parts = used_parts(shown)
    _stack(panels[0], [row.count.parameters for row in shown if row.count], parts, 1e6)
    panels[0].set_xlabel("parameters (millions)")
    flops = [
        {part: work.flops for part, work in row.count.test.items()} for row in shown if row.count
    ]
    _stack(panels[1], flops, parts, 1e9)
    panels[1].set_xlabel("GFLOPs per image at test")
    if measured:
        _pairs(panels[2], shown, "peak_bytes", 1e9)
        panels[2].set_xlabel("peak memory (GB)")
        _pairs(panels[3], shown, "seconds", 1)
        panels[3].set_xlabel("seconds per batch")
        panels[3].legend(frameon=False)
    panels[0].set_yticks(range(len(shown)), [row.title for row in shown])
    panels[0].invert_yaxis()
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(parts), frameon=False)
    return figure


def plot_complexity(rows: Sequence[Row], path: Path) -> None:
    """Write the picture.

    Args:
        rows: at least one of them counted.
        path: of the picture.

    Raises:
        UserError: it cannot be written.
    """
    save_figure(draw_complexity(rows), path)


def _stack(
    panel: Any, values: Sequence[Mapping[str, int]], parts: Sequence[str], unit: float
) -> None:
    """Draw one bar per recipe, with the parts behind each other."""
    ends = [0.0] * len(values)
    for part, colour in zip(parts, COLOURS, strict=False):
        lengths = [value.get(part, 0) / unit for value in values]
        panel.barh(range(len(values)), lengths, left=ends, color=colour, label=TITLES[part])
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    for place, end in enumerate(ends):
        panel.text(end, place, f" {end:.4g}", va="center")
    panel.set_xlim(0, 1.2 * max(ends))


def _pairs(panel: Any, rows: Sequence[Row], quantity: str, unit: float) -> None:
    """Draw a bar for inference and one for training; none where something was not measured."""
    longest = 0.0
    for number, phase in enumerate(_PHASES):
        for place, row in enumerate(rows):
            outcome = row.measured.get(phase)
            value = None if outcome is None else getattr(outcome, quantity)
            label = phase if place == 0 else "_"
            y, length = place + (number - 0.5) * 0.4, (value or 0) / unit
            panel.barh(y, length, height=0.38, color=COLOURS[number], label=label)
            if value is not None:
                panel.text(length, y, f" {length:.3g}", va="center")
            elif outcome is not None:
                panel.text(0, y, " out of memory" if outcome.out_of_memory else " failed")
            longest = max(longest, length)
    panel.set_xlim(0, 1.25 * longest or 1)

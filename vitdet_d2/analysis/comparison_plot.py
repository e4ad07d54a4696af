# SPDX-License-Identifier: Apache-2.0
"""A comparison of runs as a picture: each metric over the schedule, one line per run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdet_d2.analysis.comparison import Comparison, title
from vitdet_d2.analysis.plots import COLOURS, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More runs than colours differ by their lines.
_LINES = ("-", "--", ":", "-.")
_PANEL = 4.6  # inches


def draw_comparison(comparison: Comparison) -> Figure:
    """Draw one panel for each metric.

    Args:
        comparison: what to show; over epochs where those of all runs are known, else iterations.
    """
    figure = new_figure(_PANEL * len(comparison.metrics), 3.6)
    panels = figure.subplots(1, len(comparison.metrics), squeeze=False)[0]
    for panel, metric in zip(panels, comparison.metrics, strict=True):
        _draw(panel, comparison, metric)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(len(labels), max(1, 2 * len(panels)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _draw(panel: Any, comparison: Comparison, metric: str) -> None:
    for number, run in enumerate(comparison.runs):
        points = run.points(metric)
        reached = [evaluation.iterations for evaluation, _ in points]
        panel.plot(
            [run.facts.epochs(i) for i in reached] if comparison.by_epochs else reached,
            [value for _, value in points],
            color=COLOURS[number % len(COLOURS)],
            linestyle=_LINES[number // len(COLOURS) % len(_LINES)],
            marker="o",
            markersize=4,
            label=run.name,
        )
    for number, row in enumerate(comparison.published):
        value = row.values.get(metric)
        if value is not None:
            style = _LINES[1 + number % (len(_LINES) - 1)]
            panel.axhline(value, color="#555555", linestyle=style, label=f"{row.name} (published)")
    panel.set_title(title(metric))
    panel.set_xlabel("epochs" if comparison.by_epochs else "iterations")
    panel.set_xlim(left=0)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Write the picture.

    Args:
        comparison: what to show.
        path: of the picture.
    """
    save_figure(draw_comparison(comparison), path)

# SPDX-License-Identifier: Apache-2.0
"""An analysis of errors as a picture: what share each kind has, and the AP that it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdet_d2.analysis.error_report import ErrorReport
from vitdet_d2.analysis.plots import COLOURS, new_figure, save_figure
from vitdet_d2.evaluation.tide import MAIN_ERRORS, SPECIAL_ERRORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OF_KIND = dict(zip((*MAIN_ERRORS, *SPECIAL_ERRORS), COLOURS, strict=True))


def draw_errors(report: ErrorReport) -> Figure:
    """Draw a ring of shares, and bars of cost.

    Args:
        report: what to show.
    """
    figure = new_figure(10, 3.6)
    figure.suptitle(f"{Path(report.predictions).name}: {report.title}")
    ring, main, special = figure.subplots(1, 3, width_ratios=(1, 1.5, 1))
    costs = {name: report.analysis.costs[name].delta_ap for name in MAIN_ERRORS}
    shown = {name: cost for name, cost in costs.items() if cost > 0}
    if shown:
        total = sum(shown.values())
        ring.pie(
            list(shown.values()),
            # A smaller share has no room for its number; the bars tell it.
            labels=[f"{100 * v / total:.0f} %" if v > 0.04 * total else "" for v in shown.values()],
            colors=[_OF_KIND[name] for name in shown],
            startangle=90,
            counterclock=False,
            wedgeprops={"width": 0.42, "edgecolor": "white"},
        )
    else:
        ring.set_axis_off()
        ring.text(0.5, 0.5, "no errors that cost AP", ha="center", transform=ring.transAxes)
    ring.set_title("share of dAP")
    _bars(main, report, MAIN_ERRORS)
    _bars(special, report, SPECIAL_ERRORS)
    return figure


def _bars(axes: Any, report: ErrorReport, names: tuple[str, ...]) -> None:
    costs = [report.analysis.costs[name] for name in names]
    bars = axes.barh(
        [name.replace("_", "\n") for name in names],
        [cost.delta_ap for cost in costs],
        height=0.1 * len(names) + 0.2,
        color=[_OF_KIND[name] for name in names],
    )
    axes.bar_label(bars, [f"{cost.delta_ap:.1f}  ({cost.count})" for cost in costs], padding=3)
    axes.invert_yaxis()
    # Room for the numbers.
    axes.set_xlim(0, 1.8 * max([*(cost.delta_ap for cost in costs), 1.0]))
    axes.set_xlabel("dAP  (number of errors)")
    axes.spines[["top", "right"]].set_visible(False)


def plot_errors(report: ErrorReport, path: Path) -> None:
    """Write the picture.

    Args:
        report: what to show.
        path: of the picture.
    """
    save_figure(draw_errors(report), path)

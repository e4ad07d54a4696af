# SPDX-License-Identifier: Apache-2.0
"""The picture of an analysis of errors shows its numbers, and needs no display."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.analysis.test_error_report import report
from vitdet_d2.analysis import plots
from vitdet_d2.analysis.error_plot import draw_errors, plot_errors
from vitdet_d2.evaluation.tide import MAIN_ERRORS


def test_bars_and_ring_have_the_costs() -> None:
    shown = report()
    ring, main, special = draw_errors(shown).axes
    costs = shown.analysis.costs
    wanted = [costs[name].delta_ap for name in MAIN_ERRORS]
    assert [bar.get_width() for bar in main.patches] == pytest.approx(wanted)
    assert [bar.get_width() for bar in special.patches] == pytest.approx(
        [costs["false_positives"].delta_ap, costs["false_negatives"].delta_ap]
    )
    angles = [wedge.theta2 - wedge.theta1 for wedge in ring.patches]
    shares = [360 * cost / sum(wanted) for cost in wanted if cost > 0]
    assert angles == pytest.approx(shares)
    assert f"{wanted[1]:.1f}  ({costs['localisation'].count})" in [t.get_text() for t in main.texts]


@pytest.mark.parametrize("ending", plots.ENDINGS)
def test_picture_is_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"errors{ending}"
    plot_errors(report(), path)
    assert path.stat().st_size > 5000
    if ending == ".png":
        with Image.open(path) as image:
            assert image.size == (1500, 540)

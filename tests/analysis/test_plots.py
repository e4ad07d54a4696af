# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vitdet_d2.analysis.plots import ENDINGS, check_outputs, check_plot, new_figure, save_figure
from vitdet_d2.errors import RecipeError, UserError

STARTS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_figures_are_written_by_their_ending_and_equal_ones_equally(
    tmp_path: Path, ending: str
) -> None:
    for name in ("a", "b"):
        figure = new_figure(2, 2)
        figure.subplots().plot([0, 1], [1, 0])
        save_figure(figure, tmp_path / f"{name}{ending}")
    content = (tmp_path / f"a{ending}").read_bytes()
    assert content.startswith(STARTS[ending])
    if ending == ".png":
        assert content == (tmp_path / f"b{ending}").read_bytes()


def test_what_cannot_be_drawn_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_plot(tmp_path / "a.PNG")
    with pytest.raises(RecipeError, match=r"a\.gif: expected a picture that ends in \.png"):
        check_plot(tmp_path / "a.gif")
    with pytest.raises(RecipeError, match=r"missing is no folder"):
        check_plot(tmp_path / "missing" / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RecipeError, match=r"pip install 'vitdet_d2\[plots\]'"):
        check_plot(tmp_path / "a.png")


def test_outputs_of_a_report_are_told_before(tmp_path: Path) -> None:
    table, picture = tmp_path / "a.csv", tmp_path / "a.png"
    check_outputs([None, table], picture)
    check_outputs([None, None], None)
    with pytest.raises(RecipeError, match=r"a\.gif: expected a picture"):
        check_outputs([table], tmp_path / "a.gif")
    with pytest.raises(RecipeError, match=r"missing is no folder"):
        check_outputs([tmp_path / "missing" / "a.csv"], None)
    with pytest.raises(RecipeError, match=r"a\.png is named for two outputs"):
        check_outputs([table, tmp_path / "." / "a.png"], picture)
    picture.mkdir()
    with pytest.raises(RecipeError, match=r"a\.png is a folder; name a file"):
        check_outputs([table], picture)


def test_a_figure_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing/a\.png cannot be written"):
        save_figure(new_figure(1, 1), tmp_path / "missing" / "a.png")

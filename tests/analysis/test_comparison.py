# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: names, metrics, final and best, what is said about each; tables and plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.analysis.toy_runs import make_run
from vitdet_d2.analysis.comparison import Comparison, compare, title
from vitdet_d2.analysis.comparison_plot import draw_comparison
from vitdet_d2.analysis.comparison_tables import as_json, as_markdown, as_rows
from vitdet_d2.errors import DataError, RecipeError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_run(Path("mae"), {50: 20.0, 80: 48.5, 100: 48.0})
    make_run(Path("beit"), {50: 25.0, 80: 40.0}, trained=90, init="beit_b")
    return tmp_path


def cells(comparison: Comparison) -> list[list[str]]:
    lines = as_markdown(comparison).splitlines()
    assert len({len(line) for line in lines}) == 1
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_table_of_final_and_best(folder: Path) -> None:
    table = cells(compare(["mae", "B=beit/metrics.json"]))
    assert table[0] == [
        "run", "recipe", "initialisation", "schedule", "box AP", "mask AP", "best box AP",
        "best mask AP",
    ]  # fmt: skip
    assert set(table[1][0]) == {"-"}
    assert table[1][4].endswith(":")
    # 8 images of 4000 in an iteration.
    mae, beit = table[2:]
    assert mae == [
        "mae", "quickstart", "mae_vit_b", "0.2 ep", "48.0", "47.0", "48.5 (0.16 ep)",
        "47.5 (0.16 ep)",
    ]  # fmt: skip
    assert beit[:5] == ["B", "quickstart", "beit_b", "0.18 ep of 0.2 ep", "40.0"]


def test_notes_name_the_run_and_its_state(folder: Path) -> None:
    make_run(Path("none"), {}, trained=30)
    make_run(Path("early"), {50: 3.0}, trained=100)
    make_run(Path("free"), {50: 3.0}, trained=100, max_iter=None)
    notes = compare(["mae", "beit", "none", "early", "free"]).notes()
    assert notes == [
        "beit: not at its end: after 90 of 100 iterations, the last evaluation stands for the "
        "final one",
        "none: no evaluation after 30 of 100 iterations; see train.eval_period",
        "early: its last evaluation was after 50 iterations, its end after 100 iterations",
        "free: its last evaluation was after 50 iterations, its end after 100 iterations",
    ]


def test_a_run_without_evaluation_has_a_row(folder: Path) -> None:
    make_run(Path("none"), {}, trained=30)
    row = cells(compare(["mae", "none"]))[3]
    assert row[4:] == ["n/a"] * 4
    with pytest.raises(DataError, match=r"nothing to compare.*none: no evaluation after 30 of"):
        compare(["none"])


def test_iterations_where_epochs_are_not_known(folder: Path) -> None:
    make_run(Path("mine"), {60: 3.0}, data="mine_train")
    table = cells(compare(["mae", "mine"]))
    assert [row[3] for row in table[2:]] == ["100 it", "60 it of 100 it"]
    known = compare(["mae", "mine"], images_per_epoch=400)
    assert known.by_epochs
    assert cells(known)[2][3] == "2 ep"


def test_columns_that_nothing_fills_are_left_out(folder: Path) -> None:
    Path("bare").mkdir()
    Path("bare/metrics.json").write_text(Path("mae/metrics.json").read_text())
    assert cells(compare(["bare"], metrics=["segm/APr"]))[0] == [
        "run", "schedule", "mask APr", "best mask APr",
    ]  # fmt: skip


def test_published_rows_are_marked(folder: Path) -> None:
    table = cells(compare(["mae"], published=["vitdet_b", "cascade_vitdet_b"]))
    assert table[0][4] == "source"
    assert [row[4] for row in table[2:]] == ["measured here", "published", "published"]
    assert table[3] == [
        "vitdet_b", "vitdet_b", "IN1K, MAE", "100 ep", "published", "51.6", "45.9", "n/a", "n/a",
    ]  # fmt: skip
    assert "source" not in as_markdown(compare(["mae"]))
    rare = cells(compare(["mae"], metrics=["segm/APr"], published=["vitdet_b"]))
    assert rare[3][5:] == ["n/a", "n/a"]
    paper = cells(compare(["mae"], published=["benchmark_vit_b"]))[3:]
    assert [row[0].removeprefix("benchmark_vit_b_") for row in paper] == [
        "random", "supervised", "mocov3", "beit", "mae",
    ]  # fmt: skip
    assert paper[0][2:] == ["random", "its best", "published", "48.9", "n/a", "n/a", "n/a"]
    (large,) = compare(["mae"], published=["benchmark_vit_l_mae"]).published
    assert large.values == {"bbox/AP": 53.3, "segm/AP": 47.2}
    small = cells(compare(["mae"], published=["mask_rcnn_pvt_small", "ablation/pvt_scratch"]))
    assert small[3][2:7] == ["IN1K, sup", "12 ep", "published", "40.4", "37.8"]
    assert small[4][2:7] == ["random", "12 ep", "published", "26.6", "n/a"]
    with pytest.raises(
        RecipeError, match=r"'benchmark_vit_b_other'; of the benchmark there are .*_mae$"
    ):
        compare(["mae"], published=["benchmark_vit_b_other"])
    with pytest.raises(RecipeError, match="vitdet_bb"):
        compare(["mae"], published=["vitdet_bb"])


def test_names(folder: Path) -> None:
    make_run(Path("other/mae"), {50: 3.0})
    assert [run.name for run in compare(["mae", "other/mae"]).runs] == ["mae", "other/mae"]
    make_run(Path("lr=1"), {50: 3.0})
    names = [run.name for run in compare(["lr=1", "x=lr=1", "a|b=mae"]).runs]
    assert names == ["lr=1", "x", "a|b"]
    assert r"a\|b" in as_markdown(compare(["a|b=mae"]))
    with pytest.raises(RecipeError, match=r"two runs are named 'mae'; tell them apart with NAME="):
        compare(["mae", "mae"])
    with pytest.raises(DataError, match=r"nothing: there is no such file"):
        compare(["x=nothing"])


def test_metrics(folder: Path) -> None:
    assert compare(["mae"]).metrics == ("bbox/AP", "segm/AP")
    assert compare(["mae"], metrics=["segm/APr", "segm/APr"]).metrics == ("segm/APr",)
    with pytest.raises(RecipeError, match=r"bbox/APr: no run has it; there are bbox/AP, segm/AP, "):
        compare(["mae"], metrics=["bbox/APr"])
    assert [title(name) for name in ("bbox/AP", "segm/APr", "sem_seg/mIoU")] == [
        "box AP", "mask APr", "sem_seg mIoU",
    ]  # fmt: skip


def test_nan_is_named(folder: Path) -> None:
    row = {"iteration": 120, "bbox/AP": float("nan"), "segm/AP": 3.0}
    with open("mae/metrics.json", "a") as file:
        file.write(json.dumps(row) + "\n")
    comparison = compare(["mae"])
    assert "mae: bbox/AP was NaN in an evaluation; there it counts as not measured" in (
        comparison.notes()
    )
    assert comparison.runs[0].final("bbox/AP") is None
    assert cells(comparison)[2][4] == "n/a"


def test_json_and_csv(folder: Path) -> None:
    comparison = compare(["mae", "beit"], published=["vitdet_b"])
    content = json.loads(json.dumps(as_json(comparison), allow_nan=False))
    mae, beit = content["runs"]
    assert (mae["complete"], beit["complete"]) == (True, False)
    assert (mae["max_iter"], mae["batch"], mae["epochs"]) == (100, 8, 0.2)
    assert mae["final"] == {"bbox/AP": 48.0, "segm/AP": 47.0}
    assert mae["best"]["bbox/AP"] == {"value": 48.5, "iterations": 80}
    assert [e["iterations"] for e in mae["evaluations"]] == [50, 80, 100]
    assert content["published"][0]["values"] == {"bbox/AP": 51.6, "segm/AP": 45.9}
    titles, *rows = as_rows(comparison)
    assert titles == ["run", "recipe", "initialisation", "iterations", "epochs", "bbox/AP",
                      "segm/AP"]  # fmt: skip
    assert rows[1] == ["mae", "quickstart", "mae_vit_b", 80, 0.16, 48.5, 47.5]
    assert len(rows) == 5


def test_picture_has_a_line_per_run(folder: Path) -> None:
    figure = draw_comparison(compare(["mae", "beit"], published=["vitdet_b"]))
    box, mask = figure.axes
    assert (box.get_title(), mask.get_title(), box.get_xlabel()) == ("box AP", "mask AP", "epochs")
    mae, beit, published = box.get_lines()
    assert (mae.get_label(), beit.get_label()) == ("mae", "beit")
    assert mae.get_xdata().tolist() == pytest.approx([0.1, 0.16, 0.2])
    assert list(beit.get_ydata()) == [25.0, 40.0]
    assert (published.get_label(), published.get_ydata()[0]) == ("vitdet_b (published)", 51.6)
    make_run(Path("mine"), {60: 3.0}, data="mine_train")
    assert draw_comparison(compare(["mae", "mine"])).axes[0].get_xlabel() == "iterations"

# SPDX-License-Identifier: Apache-2.0
"""``vitdet bench``: arguments, files, exit codes; and one real run of two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.analysis.bench.conftest import failing_shipped, local_sides
from tests.analysis.bench.sides import TINY
from vitdet_d2.engine import cli
from vitdet_d2.engine.bench_arguments import parse_bench
from vitdet_d2.engine.bench_command import template, wanted
from vitdet_d2.errors import RecipeError

__all__ = ["failing_shipped", "local_sides"]

SMALL = (
    "--model", "quickstart", "--image-size", "64", "--device", "cpu", "--rounds", "1", *TINY,
)  # fmt: skip


def test_files_tell_the_same(capsys, tmp_path: Path, local_sides):
    table, numbers = tmp_path / "t.md", tmp_path / "n.json"
    files = ("--markdown", str(table), "--json-file", str(numbers))
    code = cli.main(["bench", *SMALL, *files, "--axes", "backbone", "--precision", "fp32"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert table.read_text() == shown.out
    (row,) = json.loads(numbers.read_text())["rows"]
    assert row["verdict"]["passed"] is True
    assert row["ratio_shipped"] > 0
    assert row["share_of_peak"] > 0
    assert "measuring backbone quickstart 64 px 1 image fp32 (cpu) ..." in shown.err


def test_growth(capsys, tmp_path: Path, local_sides):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "growth.png"
    code = cli.main(["bench", *SMALL, "--growth", str(picture), "--sizes", "64,96", "--batch", "1"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert picture.stat().st_size > 1000
    # 64 px stands on all three axes, and is measured once.
    assert shown.err.count("measuring") == 2


def test_failure_is_told_after_the_report(capsys, local_sides, failing_shipped):
    code = cli.main(["bench", *SMALL, "--axes", "backbone", "--precision", "fp32"])
    shown = capsys.readouterr()
    assert code == 1
    assert "| backbone quickstart" in shown.out
    assert "shipped: RuntimeError: no luck" in shown.err


@pytest.mark.slow
def test_processes_without_detectron2(capsys):
    code = cli.main(["bench", *SMALL, "--axes", "masks", "--no-detectron2", "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    report = json.loads(shown.out)
    assert list(report["versions"]) == ["ours"]
    assert report["versions"]["ours"]["detectron2"].startswith("bundled")
    (row,) = report["rows"]
    assert row["sides"]["ours"]["seconds_per_image"] > 0
    assert row["ratio_shipped"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--axes", "speed"], "expected some of training"),
        (["--batch", "0"], "whole number of at least 1"),
        (["vitdet_b"], "models are named with --model"),
        (["--detectron2", "no_such"], "expected a checkout"),
        (["--detectron2", ".", "--no-detectron2"], "contradict"),
        (["--data", "no_such"], "no such folder"),
        (["--model", ","], "names nothing"),
        (["--markdown", "no_such/t.md"], "no_such is no folder"),
    ],
)
def test_wrong_usage(words, message):
    with pytest.raises(RecipeError, match=message):
        parse_bench(words)


def test_overrides_of_the_model_concern_all_sides():
    found = template(parse_bench(["model.a=1", "train.compile=true", "data.exact=true"]))
    assert found.overrides == ("model.a=1",)
    assert found.own_overrides == ("train.compile=true", "data.exact=true")


def test_unknown_device_is_refused():
    with pytest.raises(RecipeError, match="--device"):
        wanted(parse_bench(["--device", "toaster"]))

# SPDX-License-Identifier: Apache-2.0
"""``vitdet complexity``: tables, files, exit codes, and rows that fail."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.engine.tiny_detector import OVERRIDES
from vitdet_d2 import runtime
from vitdet_d2.analysis import complexity_plot, measure
from vitdet_d2.analysis.complexity import Row, recipe_size
from vitdet_d2.analysis.job import Job, Outcome
from vitdet_d2.engine import cli, complexity_command
from vitdet_d2.engine.complexity_command import parse_complexity
from vitdet_d2.errors import RecipeError


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["complexity", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Measurements that take no time: what they are asked to do."""
    asked: list[Job] = []

    def fake(job: Job) -> Outcome:
        asked.append(job)
        if job.recipe.endswith("vitdet_ti") and job.phase == "training":
            return Outcome(out_of_memory=True, need_bytes=12_340_000_000, hardware="a toy")
        if job.recipe == "vitdet_s":
            return Outcome(error="ValueError: no luck")
        seconds = 0.25 if job.phase == "inference" else 1.5
        return Outcome(
            seconds=seconds, peak_bytes=2_500_000_000, precision="fp32", hardware="a toy"
        )

    monkeypatch.setattr(measure, "measure_apart", fake)
    return asked


def test_counts_as_table(capsys):
    code, out, err = run(capsys, "vitdet_b", "faster_rcnn_vitdet_b", "--no-measure")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    sizes = "1024x1024 110,895,792 85,889,024 5,560,000 1,184,015 15,618,449 2,644,304"
    assert ["vitdet_b", *sizes.split()] in rows
    assert ["vitdet_b", *"1024x1024 1679.3 965.6 143.3 206.6 257.7 106.0".split()] in rows
    assert ["faster_rcnn_vitdet_b", *"1024x1024 1573.3 965.6 143.3 206.6 257.7 -".split()] in rows
    assert "vitdet_b: 1000 boxes and 100 masks at test, 512 boxes and 128 masks in training" in out
    assert "measured" not in out


def test_json_csv_and_plot_tell_the_same(capsys, tmp_path: Path, jobs):
    pytest.importorskip("matplotlib")
    table, picture = tmp_path / "cost.csv", tmp_path / "cost.png"
    code, out, err = run(
        capsys, "quickstart", *OVERRIDES, "--json", "--device", "cpu", "--batch", "2", "--csv",
        str(table), "--plot", str(picture),
    )  # fmt: skip
    assert code == 0
    assert err.splitlines() == [
        "measuring inference of quickstart ...",
        "measuring training of quickstart ...",
    ]
    (facts,) = json.loads(out)
    assert facts["image_size"] == [64, 64]
    assert facts["parameters"]["total"] == sum(
        number for part, number in facts["parameters"].items() if part != "total"
    )
    assert facts["train_step_flops"] == 3 * facts["train_forward_flops"]["total"]
    assert facts["inference"]["seconds"] == 0.25
    assert facts["training"]["peak_bytes"] == 2_500_000_000
    with table.open(newline="", encoding="utf-8") as file:
        (cells,) = csv.DictReader(file)
    assert cells["recipe"] == "quickstart"
    assert cells["height"] == "64"
    assert int(cells["parameters_mask_head"]) == facts["parameters"]["mask_head"]
    assert int(cells["test_flops_total"]) == facts["test_flops"]["total"]
    assert float(cells["training_seconds"]) == 1.5
    assert cells["inference_error"] == ""
    assert picture.read_bytes()[:4] == b"\x89PNG"
    first, second = jobs
    assert (first.phase, second.phase) == ("inference", "training")
    assert first.overrides == OVERRIDES
    assert (first.image_size, first.batch, first.device) == ((64, 64), 2, "cpu")
    assert (first.repeats, first.warmup) == (3, 1)


def test_failures_leave_the_other_rows(capsys, tmp_path, jobs):
    """Exit code 1 at the end, and what failed says so in its cell."""
    table = tmp_path / "cost.csv"
    words = ["vitdet_ti", "vitdet_s", "faster_rcnn_vitdet_b", "--size", "320", "--device", "cpu"]
    code, out, err = run(capsys, *words, "--csv", str(table))
    assert code == 1
    assert err.splitlines()[-1] == (
        "error: vitdet_ti, training: out of memory (needs > 12.34 GB); vitdet_s, inference: "
        "ValueError: no luck; vitdet_s, training: ValueError: no luck"
    )
    measured = out[out.index("measured on a toy") :].split("\n\n")[0].splitlines()
    assert measured[2].split() == (
        "vitdet_ti 320x320 1 0.25 2.50 fp32 out of memory (needs > 12.34 GB) - -".split()
    )
    assert measured[3].split() == "vitdet_s 320x320 1 failed - - failed - -".split()
    assert measured[4].split()[:6] == "faster_rcnn_vitdet_b 320x320 1 0.25 2.50 fp32".split()
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["training_out_of_memory"] for row in rows] == ["True", "False", "False"]
    assert rows[0]["training_need_bytes"] == "12340000000"
    assert rows[1]["inference_error"] == "ValueError: no luck"
    assert len(jobs) == 6


def test_variants_of_a_recipe(capsys, jobs):
    variants = ["model.backbone.net.window_size=4", "model.backbone.net.window_block_indexes=[]"]
    words = [word for variant in variants for word in ("--vary", variant)]
    code, out, err = run(capsys, "quickstart", *OVERRIDES, *words, "--device", "cpu", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [(row["recipe"], row["variant"]) for row in rows] == [
        ("quickstart", variant) for variant in variants
    ]
    assert rows[0]["test_flops"]["backbone"] < rows[1]["test_flops"]["backbone"]
    assert [job.overrides for job in jobs[::2]] == [(*OVERRIDES, v) for v in variants]
    assert f"measuring inference of quickstart {variants[0]} ..." in err
    code, out, err = run(capsys, "quickstart", "--vary", "model.no=1", "--device", "cpu")
    assert (code, out) == (2, "")
    assert "no key 'model.no'" in err


@pytest.mark.parametrize(("short", "height"), [(800, 800), ([640, 672, 800], 800)])
def test_size_of_recipes_that_resize(short, height):
    resize = {"short_edge_length": short, "max_size": 1333}
    mapper = {"augmentations": [resize, {"horizontal": True}]}
    cfg = OmegaConf.create({"model": {}, "dataloader": {"train": {"mapper": mapper}}})
    assert recipe_size(cfg) == (height, 1333)
    del cfg.dataloader.train.mapper.augmentations[0]
    with pytest.raises(RecipeError, match="does not say how large its images are"):
        recipe_size(cfg)


def test_published_accuracy_beside_the_cost(capsys, jobs):
    words = ["vitdet_b", "quickstart", "--size", "320", "--published"]
    code, out, _err = run(capsys, *words, "--no-measure")
    assert code == 0
    table = out[out.index("cost at the input named") :].splitlines()
    assert "not measured here" in table[0]
    assert table[1].split()[-8:] == "box AP mask AP AP at pre-training schedule".split()[-8:]
    row = table[2].split()
    assert row[:3] == ["vitdet_b", "320x320", "110.9"]
    assert row[5:] == "51.6 45.9 1024x1024 IN1K, MAE 100 ep".split()
    assert table[3].split()[5:] == ["-"] * 5
    code, out, _err = run(capsys, *words, "--device", "cpu")
    assert out.splitlines()[-2].split()[5:11] == "0.25 2.50 1.5 2.50 51.6 45.9".split()


def test_a_changed_recipe_has_no_published_accuracy(capsys):
    words = ["vitdet_ti", "--no-measure", "--published", "--json"]
    for name, published in (("vitdet_ti", False), ("vitdet_b", True)):
        _code, out, _err = run(capsys, name, *words[1:])
        assert ("published" in json.loads(out)[0]) == published
    code, out, _err = run(capsys, "vitdet_b", *words[1:], "model.roi_heads.num_classes=3")
    assert code == 0
    assert "published" not in json.loads(out)[0]


def test_a_recipe_that_cannot_be_counted(capsys, tmp_path, jobs):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from detectron2.config import LazyCall as L\n"
        "from torch import nn\n"
        "model = L(nn.Linear)(in_features=2, out_features='many')\n"
        "dataloader, optimizer, lr_multiplier = {'image_size': 64}, {'a': 1}, {'a': 1}\n"
    )
    picture = tmp_path / "cost.png"
    code, out, err = run(capsys, str(bad), "quickstart", "--device", "cpu", "--plot", str(picture))
    assert code == 1
    assert "error: bad: " in err
    assert "TypeError" in err
    assert any(line.split()[:3] == ["bad", "-", "-"] for line in out.splitlines())
    assert "2,031,491" in out
    assert {job.recipe for job in jobs} == {"quickstart"}
    assert picture.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which recipes? none is named; see `vitdet complexity --help`"),
        (["train.max_iter=3"], "which recipes? none is named"),
        (["quickstart", "nosuch"], "recipe 'nosuch' not found"),
        (["quickstart", "model.no=1"], "the recipe has no key 'model.no'"),
        (["quickstart", "--size", "64x"], "must be a side or HxW in pixels, got '64x'"),
        (["quickstart", "--size", "0"], "must be a side or HxW in pixels, got '0'"),
        (["quickstart", "--batch", "0"], "must be a whole number of at least 1, got '0'"),
        (["quickstart", "--memory-limit", "nan"], "must be a number of gigabytes above 0"),
        (["quickstart", "--part", "head"], "--part: invalid choice: 'head'"),
        (["quickstart", "--device", "abacus"], "--device: expected auto, cuda or cpu"),
        (["quickstart", "--plot", "cost.txt"], "cost.txt"),
        (["quickstart", "--csv", "no/such/folder/a.csv"], "no/such/folder is no folder"),
    ],
)
def test_wrong_usage_is_found_before_any_work(words, message, capsys, jobs, monkeypatch):
    monkeypatch.setattr(complexity_command, "_counted", lambda *_: pytest.fail("work was begun"))
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert not jobs


def test_arguments():
    parsed = parse_complexity(
        ["a", "--size", "800x1333", "x.y=1", "b", "+z=2", "~c.d", "--memory-limit", "1.5"]
    )
    assert parsed.recipes == ("a", "b")
    assert parsed.overrides == ("x.y=1", "+z=2", "~c.d")
    assert parsed.image_size == (800, 1333)
    assert parsed.memory_limit == 1_500_000_000
    assert parse_complexity(["a", "--size", "64"]).image_size == (64, 64)
    with pytest.raises(RecipeError, match="unrecognized arguments: --nosuch"):
        parse_complexity(["a", "--nosuch"])


def test_plot_shows_what_failed():
    pytest.importorskip("matplotlib")
    from vitdet_d2.analysis.complexity import count_recipe
    from vitdet_d2.engine.recipes import load_recipe

    count = count_recipe(load_recipe("quickstart"), (64, 64), "model")
    rows = [
        Row(recipe="one", part="model", batch=1, count=count, measured={
            "inference": Outcome(seconds=1.0, peak_bytes=10**9),
            "training": Outcome(out_of_memory=True),
        }),
        Row(recipe="two", part="model", batch=1, error="lost"),
    ]  # fmt: skip
    figure = complexity_plot.draw_complexity(rows)
    assert len(figure.axes) == 4
    texts = [text.get_text().strip() for axes in figure.axes for text in axes.texts]
    assert texts.count("out of memory") == 2
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["one"]
    widths = sum(bar.get_width() for bar in figure.axes[0].patches)
    assert widths == pytest.approx(sum(count.parameters.values()) / 1e6)


@pytest.mark.skipif(
    runtime.current().name != "bundled", reason="an installed Detectron2 is imported, to be sure"
)
def test_help_teaches_without_torch():
    code = (
        "import sys\n"
        "from vitdet_d2.engine import cli\n"
        "try:\n"
        "    cli.main(['complexity', '--help'])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "two per multiply-add" in out.stdout
    assert "vitdet complexity vitdet_b vitdet_l vitdet_h --no-measure" in out.stdout

# SPDX-License-Identifier: Apache-2.0
"""``vitdet tune`` through the command line; cells are functions, but for the last test."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny_run import write_data
from tests.tuning.fake_cells import FakeCells
from vitdet_d2.engine import cli, tune_command
from vitdet_d2.engine.arguments import parse_train
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.tuning.cell_process import CellRunner
from vitdet_d2.tuning.cells import Cell
from vitdet_d2.tuning.work import Worker

ROOT = Path(__file__).parents[2]
SHORT = ("quickstart", "--iterations", "20", "--num-gpus", "0")
GRID = ("--lr", "5e-4,1e-3", "--weight-decay", "0.05,0.1")


class Tune:
    """The command in a folder, with fake cells."""

    def __init__(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.folder = folder
        self.cells = FakeCells(lambda cell: 1000 * cell.lr + cell.weight_decay + cell.drop_path)
        self._capsys = capsys
        monkeypatch.setattr(CellRunner, "start", lambda _, cell, slot: self.cells(cell, slot))

    def __call__(self, *argv: str, code: int = 0) -> tuple[str, str]:
        """Run it; return what it printed."""
        self._capsys.readouterr()
        output = () if "--output" in argv else ("--output", str(self.folder))
        assert cli.main(["tune", *argv, *output]) == code
        shown = self._capsys.readouterr()
        return shown.out, shown.err

    def json(self, *argv: str, code: int = 0) -> dict[str, Any]:
        return dict(json.loads(self(*argv, "--json", code=code)[0]))


@pytest.fixture
def tune(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Tune:
    monkeypatch.setattr(tune_command, "Worker", partial(Worker, sleep=lambda _: None))
    return Tune(tmp_path / "study", capsys, monkeypatch)


def test_a_study_ends_with_table_heat_map_and_command(tune: Tune) -> None:
    out, err = tune(*SHORT, *GRID, "train.seed=5")
    assert len(tune.cells.cells) == 7
    assert "stage 1: 3 of 4 cells are through" in err
    assert "stage 2: 4 of 4 cells are through" in err
    lines = [line.split() for line in out.splitlines()]
    assert ["1", "0.001", "0.1", "0", "1.1", "*", "done", "0", "s"] in lines
    assert ["2", "0.001", "0.1", "0.3", "1.4", "*", "done", "0", "s"] in lines
    assert ["0.0005", "0.55", "0.6"] in lines, "the heat map as text"
    assert (tune.folder / "heat_map.png").read_bytes().startswith(b"\x89PNG")
    command = next(line for line in out.splitlines() if line.startswith("  vitdet train"))
    arguments = parse_train(shlex.split(command)[2:])
    assert arguments.num_gpus == 0, "as the cells"
    cfg = load_recipe(arguments.config_file, arguments.overrides)
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-3, 0.1)
    assert (cfg.model.backbone.net.drop_path_rate, cfg.train.seed) == (0.3, 5)
    assert cfg.train.max_iter == 1250, "as long as the recipe says"


def test_json_says_the_same(tune: Tune) -> None:
    told = tune.json(*SHORT, *GRID, "--stage", "1")
    assert told == json.loads((tune.folder / "report.json").read_text())
    assert told["complete"]
    (stage,) = told["stages"]
    assert [cell["value"] for cell in stage["cells"]] == [0.55, 0.6, 1.05, 1.1]
    assert {cell["claims"] for cell in stage["cells"]} == {1}
    assert told["winner"]["value"] == 1.1
    arguments = parse_train(shlex.split(told["winner"]["cell_command"])[2:])
    cfg = load_recipe(arguments.config_file, arguments.overrides)
    assert cfg.train.max_iter == 20
    assert cfg.train.output_dir == stage["cells"][-1]["folder"]


def test_stages_one_by_one(tune: Tune) -> None:
    _, err = tune(*SHORT, *GRID, "--stage", "2", code=2)
    assert "--stage 2 needs the best pair of stage 1, of which 4 cells are open" in err
    tune(*SHORT, *GRID, "--stage", "1")
    assert len(tune.cells.cells) == 4
    tune(*SHORT, *GRID, "--stage", "2")
    assert len(tune.cells.cells) == 7
    told = tune.json(*SHORT, *GRID)
    assert len(tune.cells.cells) == 7
    assert told["winner"]["drop_path"] == 0.3


def test_stage_3_takes_the_pair_of_another_study(tune: Tune, tmp_path: Path) -> None:
    large = ("--from", str(tune.folder), "--output", str(tmp_path / "large"))
    _, err = tune(*SHORT, *large, code=2)
    assert "no tuning study in" in err
    tune(*SHORT, *GRID, "--stage", "1")
    tune.cells.started.clear()
    told = tune.json(*SHORT, *large, "model.backbone.net.depth=6")
    assert [(c.lr, c.weight_decay, c.drop_path) for c in tune.cells.cells] == [
        (1e-3, 0.1, rate) for rate in (0.0, 0.1, 0.2, 0.3)
    ]
    assert told["stages"][0]["stage"] == 3
    # Its own pair can be taken on.
    further = ("--from", str(tmp_path / "large"), "--output", str(tmp_path / "huge"))
    assert tune.json(*SHORT, *further)["winner"]["lr"] == 1e-3


def test_failed_cells_are_told_and_can_be_run_again(tune: Tune) -> None:
    tune.cells.value = lambda cell: "loss is NaN" if cell.lr == 1e-3 else cell.weight_decay
    out, _ = tune(*SHORT, *GRID, "--stage", "1")
    assert "failed: lr 0.001, weight decay 0.1, drop path 0: loss is NaN (log:" in out
    assert "Winner: lr 0.0005, weight decay 0.1" in out
    tune(*SHORT, *GRID, "--stage", "1")
    assert len(tune.cells.cells) == 4
    tune.cells.value = lambda cell: 1000 * cell.lr
    _, err = tune(*SHORT, *GRID, "--stage", "1", "--retry-failed")
    assert "2 failed cells are open again" in err
    assert len(tune.cells.cells) == 6


def test_a_study_of_failures_ends_with_an_error(tune: Tune) -> None:
    tune.cells.value = lambda _: "no such file"
    out, err = tune(*SHORT, *GRID, code=1)
    assert "All cells failed." in out
    assert "error: all 4 cells of stage 1 failed, the first one: no such file" in err
    assert "--retry-failed" in err


def test_the_default_grid_is_that_of_the_protocol(tune: Tune) -> None:
    told = tune.json(*SHORT, "--dry-run")
    assert len(told["cells"]) == 9
    assert told["cells"][4]["cell"] == "lr0.00016_wd0.1_dp0"
    assert not tune.folder.exists()


def test_another_recipe_or_grid_is_refused(tune: Tune) -> None:
    tune(*SHORT, *GRID, "--stage", "1")
    for changed, told in [
        (("--iterations", "40"), "train.max_iter: 20 -> 40"),
        (("model.backbone.net.depth=2",), "model.backbone.net.depth: 4 -> 2"),
        (("--drop-path", "0.5"), "protocol.drop_paths"),
        (("--metric", "segm/AP"), "metric:"),
    ]:
        _, err = tune(*SHORT, *GRID, *changed, code=2)
        assert "is of another recipe or of other settings" in err
        assert told in err
    assert len(tune.cells.cells) == 4


def test_report_runs_nothing(tune: Tune) -> None:
    _, err = tune(*SHORT, *GRID, "--report", code=2)
    assert "no tuning study in" in err
    assert not tune.folder.exists()
    tune(*SHORT, *GRID, "--stage", "1")
    told = tune.json(*SHORT, *GRID, "--report")
    assert len(tune.cells.cells) == 4
    assert [stage["complete"] for stage in told["stages"]] == [True, False]
    assert not told["complete"]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (("quickstrat", "--iterations", "20"), ("quickstrat", "quickstart")),
        (("quickstart",), ("trains for 1250 iterations", "--epochs N or --iterations N")),
        ((*SHORT, "optimizer.lr=1"), ("optimizer.lr", "--lr")),
        ((*SHORT, "model.depht=1"), ("model.depht",)),
        ((*SHORT, "--num-gpus", "99"), ("99 GPUs", "--num-gpus")),
        ((*SHORT, "~model.backbone.net.drop_path_rate"), ("drop_path_rate", "--drop-path-key")),
        ((*SHORT, "--drop-path-key", "model.x"), ("--drop-path-key model.x",)),
    ],
)
def test_mistakes_cost_nothing(tune: Tune, argv: tuple[str, ...], parts: tuple[str, ...]) -> None:
    _, err = tune(*argv, code=2)
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert not tune.folder.exists()
    assert tune.cells.cells == []


def test_optuna_is_named_where_it_is_missing(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    _, err = tune(*SHORT, code=2)
    assert "pip install 'vitdet_d2[tune]'" in err


def test_a_study_without_matplotlib_has_no_picture(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out, err = tune(*SHORT, *GRID, "--stage", "1")
    assert "pip install 'vitdet_d2[plots]'" in err
    assert "Heat map" not in out
    assert not (tune.folder / "heat_map.png").exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:////no/such/folder/study.db", "unable to open database file"),
        ("postgresql://me:secret@localhost:1/tune", "postgresql://me:***@localhost:1/tune"),
        ("nonsense", "Could not parse SQLAlchemy URL"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named(tune: Tune, url: str, reason: str) -> None:
    _, err = tune(*SHORT, *GRID, "--storage", url, code=1)
    assert "cannot be used" in err
    assert reason in err
    assert "secret" not in err
    assert tune.cells.cells == []


def test_a_folder_that_cannot_be_written_is_named(tune: Tune) -> None:
    tune.folder.write_text("a file")
    _, err = tune(*SHORT, *GRID, code=1)
    assert "cannot be written to" in err
    assert "--output FOLDER" in err


def test_a_storage_elsewhere_holds_several_studies(tune: Tune, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    tune(*SHORT, *GRID, "--stage", "1", "--storage", url)
    _, err = tune(*SHORT, "--stage", "1", "--storage", url, code=2)
    assert "--study-name NAME" in err
    tune(*SHORT, "--stage", "1", "--storage", url, "--study-name", "nine", "--max-extensions", "0")
    assert len(tune.cells.cells) == 4 + 9
    assert not (tune.folder / "study.db").exists()
    large = ("--output", str(tmp_path / "large"), "--from", url)
    _, err = tune(*SHORT, *large, code=2)
    assert "nine, quickstart" in err
    assert tune.json(*SHORT, *large, "--from-name", "nine")["winner"]["lr"] == 3.2e-4


TINY = (
    "data.image_size=32", "model.backbone.net.depth=1", "model.backbone.net.embed_dim=16",
    "model.backbone.net.window_block_indexes=[]", "train.pictures=0",
    "model.proposal_generator.pre_nms_topk=[40,20]",
    "model.proposal_generator.post_nms_topk=[20,5]",
)  # fmt: skip


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for does not happen"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_study_of_the_quick_start_recipe_runs_exactly_the_other_cells(
    tmp_path: Path,
) -> None:
    """Real cells of 20 iterations; the process of the study is killed while the second one runs."""
    write_data(tmp_path)
    data = [f"data.{split}_json={tmp_path}/tiny.json" for split in ("train", "val")]
    data += [f"data.{split}_images={tmp_path}" for split in ("train", "val")]
    command = [
        sys.executable, "-m", "vitdet_d2", "tune", *SHORT, *GRID, *TINY, *data, "--stage", "1",
        "--output", str(tmp_path), "--json",
    ]  # fmt: skip
    first, second = (tmp_path / "cells" / f"lr0.0005_wd{wd}_dp0" for wd in ("0.05", "0.1"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as study:
        wait_for(lambda: second.joinpath(".lock").exists())
        study.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in first.glob("model_*")}
    assert before
    again = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    told = json.loads(again.stdout)
    cells = told["stages"][0]["cells"]
    assert [cell["state"] for cell in cells] == ["done"] * 4
    assert [cell["claims"] for cell in cells] == [1, 2, 1, 1]
    assert again.stderr.count(": started") == 3
    assert "lr 0.0005, weight decay 0.1, drop path 0: its worker is gone" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in first.glob("model_*")} == before
    assert Cell(lr=5e-4, weight_decay=0.05, drop_path=0.0).text + ": started" not in again.stderr

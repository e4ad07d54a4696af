# SPDX-License-Identifier: Apache-2.0
"""A one-stage detector through every command: nothing in the engine needs heads on regions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.engine.test_resume import assert_equal, load
from tests.engine.tiny_run import CLASSES, write_data
from tests.engine.zygote import Zygote
from vitdet_d2 import runtime

TRAIN, MAIN = "vitdet_d2.engine.cli:main_train", "vitdet_d2.engine.cli:main"
RECIPE = str(Path(__file__).with_name("tiny_retinanet.py"))


class Runs:
    """A folder with data of two classes, and what the commands leave in it."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        self.folder, self._zygote = folder, zygote
        write_data(folder)
        self.recipe = ["--config-file", RECIPE, *self.data("tiny.json")]

    def data(self, name: str) -> list[str]:
        """Overrides that name an annotation file of the folder, for training and evaluation."""
        files = {"json": self.folder / name, "images": self.folder}
        return [f"data.{s}_{key}={path}" for s in ("train", "val") for key, path in files.items()]

    def train(self, run: str, *more: str) -> str:
        given = [*self.recipe, "--num-gpus", "0", f"train.output_dir={self.folder / run}", *more]
        return self._call(TRAIN, given)

    def command(self, *words: str) -> str:
        return self._call(MAIN, list(words))

    def _call(self, call: str, argv: list[str]) -> str:
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        self._zygote.run(call, log, argv=argv)
        return log.read_text()


@pytest.fixture(scope="module")
def runs(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """With one finished run, ``run``."""
    runs = Runs(tmp_path_factory.mktemp("retinanet"), zygote)
    log = runs.train("run")
    assert (runs.folder / "run" / "model_final.pth").exists(), log
    return runs


def test_trains_and_is_scored_on_boxes(runs: Runs) -> None:
    run = runs.folder / "run"
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    logged = {name for line in lines for name in line}
    assert {"loss_cls", "loss_box_reg", "num_pos_anchors", "bbox/AP"} <= logged
    assert not [name for name in logged if "rpn" in name or "mask" in name or "segm" in name]
    state = load(run)
    assert state["model"]["head.cls_score.weight"].shape[0] == 9 * len(CLASSES)
    assert state["vitdet_d2"]["thing_classes"] == list(CLASSES)
    # The average of the first four steps, from 100.
    (normalizers,) = state["loss_normalizers"]
    assert 100 * 0.9**4 < normalizers[""] < 100


def test_a_resumed_run_ends_as_one_that_was_not_stopped(runs: Runs) -> None:
    stopped = runs.folder / "stopped"
    shutil.copytree(runs.folder / "run", stopped)
    for name in ("model_0000003", "model_final"):
        for path in stopped.glob(f"{name}.*"):
            path.unlink()
    log = runs.train("stopped", "--resume")
    assert (stopped / "model_final.pth").exists(), log
    ours, theirs = (load(runs.folder / name) for name in ("stopped", "run"))
    if runtime.current().name == "bundled":
        assert_equal(ours["model"], theirs["model"])
    for name, value in theirs["model"].items():
        # Detectron2's focal loss is compiled, and rounds otherwise after its first calls; AdamW
        # moves weights of tiny gradients by as much as others, 0.01 in each step.
        torch.testing.assert_close(ours["model"][name], value, rtol=0, atol=1e-3)
    assert ours["loss_normalizers"] == theirs["loss_normalizers"]


def test_evaluation_and_prediction_read_the_checkpoint(runs: Runs) -> None:
    weights = str(runs.folder / "run" / "model_final.pth")
    results = runs.folder / "evaluated"
    log = runs.command("eval", "--weights", weights, *runs.recipe, f"train.output_dir={results}")
    assert "box AP" in log
    assert "bbox" in json.loads((results / "inference" / "results.json").read_text())
    shown = runs.folder / "shown"
    places = ["--weights", weights, "--input", str(runs.folder), "--output", str(shown)]
    log = runs.command("predict", *places, "--device", "cpu", "--score-threshold", "0.001")
    assert "7 pictures, " in log
    content = json.loads((shown / "predictions.json").read_text())
    assert len(content["annotations"]) > 7
    assert [row["name"] for row in content["categories"]] == list(CLASSES)


def test_another_number_of_classes_is_named(runs: Runs) -> None:
    document = json.loads((runs.folder / "tiny.json").read_text())
    document["categories"].append({"id": 3, "name": "flat"})
    (runs.folder / "three.json").write_text(json.dumps(document))
    weights = str(runs.folder / "run" / "model_final.pth")
    init = f"train.init_checkpoint={weights}"
    log = runs.train("three", *runs.data("three.json"), init, "train.max_iter=1")
    assert "the data has 3 classes; the recipe's num_classes=80 is replaced" in log
    assert "the file has 2 classes, the model 3: the class layers start anew" in log
    assert "newly initialised: head.cls_score (2) (expected)" in log
    score = load(runs.folder / "three")["model"]["head.cls_score.bias"]
    assert score.shape == (27,)
    assert float(score.mean()) == pytest.approx(-4.6, abs=0.1)  # the prior
    log = runs.command("eval", "--weights", weights, *runs.recipe, *runs.data("three.json"))
    message = log.splitlines()[-1]
    assert "the file has 2 classes, the recipe 3 classes" in message
    assert message.endswith("or set model.num_classes=2")
    predict = ["predict", "--weights", weights, "--input", str(runs.folder), "--output", "x"]
    log = runs.command(*predict, *runs.recipe[:2], "model.num_classes=7")
    assert "trained on 2 classes (round, square), the recipe has 7" in log
    assert "leave --config-file and model.num_classes out" in log


def test_a_run_that_diverges_stops_and_says_so(runs: Runs) -> None:
    log = runs.train("diverged", "optimizer.lr=1e30", "lr_multiplier.warmup_length=0")
    assert log.splitlines()[-1].startswith("error: ")
    assert "not finite" in log or "NaN" in log
    states = [load(runs.folder / "diverged", p.name) for p in runs.folder.glob("diverged/*.pth")]
    assert all(bool(v.isfinite().all()) for s in states for v in s["model"].values())


def test_its_cost_is_counted(runs: Runs) -> None:
    log = runs.command("complexity", RECIPE, "--no-measure")
    assert "dense head" in log
    assert "RPN" not in log

# SPDX-License-Identifier: Apache-2.0
"""LVIS from end to end: the recipes train on a file in its format, continue, and are scored."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.test_resume import assert_same_run, load, metrics
from tests.engine.zygote import Zygote, wait_for
from tests.evaluation import toy_lvis

TRAIN, EVALUATE = "tests.engine.lvis_run:train", "tests.engine.lvis_run:evaluate"
SHARE = "tests.evaluation.toy_lvis:evaluate_share"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.engine.lvis_run import write_data

    folder = tmp_path_factory.mktemp("lvis data")
    write_data(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reference(zygote: Zygote, data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    job = {"data": data, "output_dir": str(run), "recipe": "lvis_vitdet_b"}
    log = run.parent / "log"
    assert zygote.run(TRAIN, log, **job) == 0, log.read_text()
    return run


def test_the_recipe_follows_the_data(reference: Path) -> None:
    state = load(reference)
    weights = state["model"]["roi_heads.box_predictor.fed_loss_cls_weights"]
    counts = [60, 4, 4, 900, 900, 60]
    np.testing.assert_allclose(weights, np.sqrt(counts), rtol=1e-6)
    assert state["model"]["roi_heads.box_predictor.cls_score.weight"].shape == (7, 16)
    assert state["vitdet_d2"]["dataset_ids"] == sorted(toy_lvis.CATEGORIES)
    assert state["vitdet_d2"]["thing_classes"][0] == "class_3"
    assert all(math.isfinite(line["total_loss"]) for line in metrics(reference) if "lr" in line)
    log = (reference.parent / "log").read_text()
    assert "6 classes with images; the recipe's fed_loss_num_classes=50 is replaced" in log


def test_results(reference: Path) -> None:
    results = json.loads((reference / "inference/results.json").read_text())
    for task in ("bbox", "segm"):
        assert {"AP", "APr", "APc", "APf", "AR@300"} <= results[task].keys()
        assert 0 <= results[task]["AP"] <= 100
    rows = json.loads((reference / "inference/lvis_instances_results.json").read_text())
    assert rows, "a random model finds something at this threshold"
    known = {row["image_id"] for row in rows}
    assert known <= {image["id"] for image in toy_lvis.ground_truth(2)["images"]}
    logged = [line for line in metrics(reference) if "segm/APr" in line]
    assert len(logged) == 1


def test_killed_and_resumed_equals_uninterrupted(
    zygote: Zygote, data: str, reference: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = {"data": data, "output_dir": str(run), "recipe": "lvis_vitdet_b"}
    pid = zygote.start(TRAIN, tmp_path / "log", **job)
    wait_for((run / "model_0000001.pth").exists)
    os.kill(pid, signal.SIGKILL)
    assert zygote.wait(pid) == -signal.SIGKILL
    assert not (run / "model_final.pth").exists(), "killed too late"
    assert zygote.run(TRAIN, tmp_path / "log", **job, resume="auto") == 0
    assert_same_run(run, reference)


def test_weights_are_evaluated_without_training_data(
    zygote: Zygote, data: str, reference: Path, tmp_path: Path
) -> None:
    weights = str(reference / "model_final.pth")
    job = {"data": data, "output_dir": str(tmp_path), "recipe": "lvis_vitdet_b", "weights": weights}
    log = tmp_path / "log"
    assert zygote.run(EVALUATE, log, **job) == 0, log.read_text()
    again = json.loads((tmp_path / "again.json").read_text())
    results = json.loads((reference / "inference/results.json").read_text())
    for task, expected in results.items():
        numbers = {k: None if math.isnan(v) else v for k, v in again[task].items()}
        assert numbers == pytest.approx(expected, abs=1e-6)


def test_cascade_trains(zygote: Zygote, data: str, tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    job = {"data": data, "output_dir": str(run), "recipe": "lvis_cascade_vitdet_b", "max_iter": 2}
    assert zygote.run(TRAIN, log, **job) == 0, log.read_text()
    state = load(run)["model"]
    for stage in range(3):
        assert state[f"roi_heads.box_predictor.{stage}.fed_loss_cls_weights"].shape == (6,)
    assert torch.isfinite(state["roi_heads.box_predictor.2.cls_score.weight"]).all()
    assert (run / "inference/results.json").is_file()


def test_two_processes_give_the_same_metrics(zygote: Zygote, tmp_path: Path) -> None:
    golden = json.loads(Path(toy_lvis.__file__).with_name("golden_lvis.json").read_text())
    pids = [
        zygote.start(SHARE, tmp_path / f"log{rank}", rank=rank, folder=str(tmp_path), seed=1)
        for rank in (0, 1)
    ]
    assert [zygote.wait(pid) for pid in pids] == [0, 0]
    results = json.loads((tmp_path / "results_0.json").read_text())
    for case in golden["cases"]:
        if (case["seed"], case["limit"]) == (1, 300):
            for key, value in case["metrics"].items():
                found = results[case["task"]][key]
                assert math.isnan(found) if value is None else found == pytest.approx(value)
    assert json.loads((tmp_path / "results_1.json").read_text()) == {}, "only rank 0 reports"

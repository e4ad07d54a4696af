# SPDX-License-Identifier: Apache-2.0
"""Which weights are the best, and which metrics there are."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall
from omegaconf import OmegaConf

from vitdet_d2.engine.best import BestWeights, require_metric
from vitdet_d2.engine.checkpoint_store import CheckpointStore, CheckpointWriteError
from vitdet_d2.errors import RecipeError
from vitdet_d2.evaluation.coco_evaluator import COCOEvaluator


def best_of(folder: Path, metric: str = "bbox/AP", value: float = 0.0) -> BestWeights:
    """Whose weights are the iteration itself."""

    def weights(iteration: int) -> dict[str, Any]:
        return {"model": {"w": torch.tensor(float(iteration) + value)}}

    return BestWeights(
        CheckpointStore(folder, retry_seconds=()), metric, collect_weights=weights, meta={"seen": 1}
    )


def saved(folder: Path) -> tuple[float, dict[str, Any]]:
    state = torch.load(folder / "model_best.pth", weights_only=True)
    return float(state["model"]["w"]), json.loads((folder / "model_best.json").read_text())


def test_highest_value_wins_and_a_tie_does_not(tmp_path: Path) -> None:
    best = best_of(tmp_path)
    kept = []
    for iteration, value in enumerate([math.nan, 3.0, 2.0, 3.0, math.nan, 5.0, -1.0]):
        best.consider({"bbox/AP": value}, iteration)
        kept.append(saved(tmp_path)[0] if (tmp_path / "model_best.pth").exists() else None)
    assert kept == [None, 1.0, 1.0, 1.0, 1.0, 5.0, 5.0]
    manifest = saved(tmp_path)[1]
    assert manifest["best"] == {"metric": "bbox/AP", "value": 5.0}
    assert (manifest["iteration"], manifest["seen"]) == (5, 1)


def test_value_is_recalled(tmp_path: Path) -> None:
    best_of(tmp_path).consider({"bbox/AP": 4.0}, 1)
    resumed = best_of(tmp_path)
    resumed.recall()
    resumed.consider({"bbox/AP": 3.0}, 2)
    assert saved(tmp_path)[0] == 1.0
    resumed.consider({"bbox/AP": 4.5}, 3)
    assert saved(tmp_path)[0] == 3.0


@pytest.mark.parametrize("fault", ["missing", "damaged", "no manifest", "other metric"])
def test_what_cannot_be_trusted_counts_for_nothing(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    best_of(tmp_path).consider({"bbox/AP": 4.0}, 1)
    path = tmp_path / "model_best.pth"
    if fault == "missing":
        path.unlink()
    elif fault == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    elif fault == "no manifest":
        path.with_suffix(".json").unlink()
    metric = "segm/AP" if fault == "other metric" else "bbox/AP"
    resumed = best_of(tmp_path, metric)
    with caplog.at_level(logging.WARNING):
        resumed.recall()
    assert "model_best.pth" in caplog.text
    resumed.consider({metric: 1.0}, 2)
    assert saved(tmp_path)[0] == 2.0


def test_best_is_no_checkpoint_to_resume_from_or_to_prune(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, max_to_keep=2)
    best_of(tmp_path).consider({"bbox/AP": 4.0}, 0)
    assert not (tmp_path / "last_checkpoint").exists()
    assert store.newest_verified() is None
    for iteration in range(4):
        store.save({"model": {"w": torch.zeros(1)}}, iteration=iteration, meta={})
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == ["model_0000002.pth", "model_0000003.pth", "model_best.pth"]


def test_unknown_metric_lists_what_there_is(tmp_path: Path) -> None:
    found = {"bbox/AP": 1.0, "bbox/AP-cat": 1.0, "bbox/AP-dog": 1.0, "segm/AP": math.nan}
    expected = r"no metric 'AP'; there are bbox/AP, bbox/AP-CLASS, segm/AP$"
    with pytest.raises(RecipeError, match=expected):
        best_of(tmp_path, "AP").consider(found, 3)


def test_weights_with_nan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointWriteError, match="refused to save a model with NaN"):
        best_of(tmp_path, value=math.nan).consider({"bbox/AP": 1.0}, 3)
    assert not (tmp_path / "model_best.pth").exists()


def recipe(**evaluator: Any) -> Any:
    node = LazyCall(COCOEvaluator)(dataset_name="d", **evaluator)
    return OmegaConf.create({"dataloader": {"evaluator": node}}, flags={"allow_objects": True})


@pytest.mark.parametrize("metric", ["bbox/AP", "segm/AP50", "bbox/APs", "segm/AP-a cat"])
def test_metrics_of_coco_are_known_before_training(metric: str) -> None:
    require_metric(recipe(), metric, ["a cat"])


@pytest.mark.parametrize(
    ("evaluator", "metric"),
    [({}, "AP"), ({}, "bbox/AP-dog"), ({}, "bbox/ap"), ({"tasks": ["bbox"]}, "segm/AP")],
)
def test_others_are_refused_before_training(evaluator: dict[str, Any], metric: str) -> None:
    with pytest.raises(RecipeError, match=rf"no metric '{metric}'; there are bbox/AP, bbox/AP50"):
        require_metric(recipe(**evaluator), metric, ["a cat"])


def test_metrics_of_lvis_are_known_before_training() -> None:
    cfg = recipe()
    cfg.dataloader.evaluator["_target_"] = "vitdet_d2.evaluation.lvis_evaluator.LVISEvaluator"
    require_metric(cfg, "segm/APr", ["a cat"])
    require_metric(cfg, "bbox/ARs@300", ["a cat"])
    with pytest.raises(RecipeError, match=r"no metric 'bbox/AP-a cat'; there are .* bbox/APf"):
        require_metric(cfg, "bbox/AP-a cat", ["a cat"])


def test_without_an_evaluator_there_is_no_best() -> None:
    cfg = OmegaConf.create({"dataloader": {}})
    with pytest.raises(RecipeError, match=r"no dataloader\.evaluator"):
        require_metric(cfg, "bbox/AP", [])


def test_metrics_of_several_evaluators_are_known_together() -> None:
    cfg = recipe(tasks=["bbox"])
    second = {**cfg.dataloader.evaluator, "tasks": ["segm"]}
    cfg.dataloader.evaluator = [cfg.dataloader.evaluator, second]
    for metric in ("bbox/AP", "segm/AP"):
        require_metric(cfg, metric, [])
    with pytest.raises(RecipeError, match=r"no metric 'keypoints/AP'; there are bbox/AP, .*segm/"):
        require_metric(cfg, "keypoints/AP", [])

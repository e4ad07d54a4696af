# SPDX-License-Identifier: Apache-2.0
"""Training and prediction from a yacs configuration, with a model of one layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultPredictor, DefaultTrainer, default_setup
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from tests.runtime.bundled.data.images import make_records


class MeanColour(nn.Module):
    """Learns the mean of the pictures; reports what it got."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(3))
        self.norm = nn.BatchNorm1d(1) if cfg.GLOBAL.HACK == 2.0 else None

    def forward(self, inputs: list[dict[str, Any]]) -> Any:
        means = torch.stack([x["image"].float().mean((1, 2)) / 255 for x in inputs])
        if self.training:
            return {"loss": (means - self.mean).square().mean()}
        sizes = [(x["height"], x["width"], tuple(x["image"].shape)) for x in inputs]
        return [{"mean": mean, "sizes": s} for mean, s in zip(means, sizes, strict=True)]


class Count(DatasetEvaluator):
    def reset(self) -> None:
        self.number = 0

    def process(self, inputs: Any, outputs: Any) -> None:
        assert len(inputs) == len(outputs)
        self.number += len(inputs)

    def evaluate(self) -> dict[str, Any]:
        return {"images": {"count": self.number}}


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return Count()


class Unwritten(Trainer):
    """Is built and not trained: nobody would close its files."""

    def build_writers(self) -> list[Any]:
        return []


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CfgNode]:
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "MeanColour", MeanColour)
    records = make_records(tmp_path, [(20, 30), (24, 36)])
    DatasetCatalog.register("mean_colour", lambda: records)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "MeanColour"
    cfg.DATASETS.TRAIN = ("mean_colour",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (10,), 10
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 2, 4, (2,)
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS = 0.5, 0
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    yield cfg
    DatasetCatalog.remove("mean_colour")


def test_it_trains_evaluates_and_continues(cfg: CfgNode) -> None:
    cfg.DATASETS.TEST = ("mean_colour",)
    cfg.TEST.EXPECTED_RESULTS = [["images", "count", 2, 0]]
    default_setup(cfg, None)  # type: ignore[arg-type]
    whole = Trainer(cfg)
    whole.resume_or_load(resume=False)
    assert whole.train() == {"images": {"count": 2}}
    out = Path(cfg.OUTPUT_DIR)
    assert {"model_0000001.pth", "model_final.pth", "metrics.json", "config.yaml"} <= {
        path.name for path in out.iterdir()
    }
    assert get_cfg().dump() != (out / "config.yaml").read_text() == cfg.dump()

    (out / "last_checkpoint").write_text("model_0000001.pth")
    again = Trainer(cfg)
    again.resume_or_load()
    assert again.start_iter == 2
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    again.train()
    # The same images in every batch, so that the order does not matter.
    assert torch.equal(again.model.mean, whole.model.mean)  # type: ignore[arg-type]


def test_weights_without_the_rest(cfg: CfgNode, tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    torch.save({"model": {"mean": torch.ones(3)}, "iteration": 7}, weights)
    cfg.MODEL.WEIGHTS = str(weights)
    trainer = Unwritten(cfg)
    trainer.resume_or_load()
    assert (trainer.start_iter, trainer.model.mean.tolist()) == (0, [1.0] * 3)  # type: ignore


def test_parts_are_those_of_the_inner_trainer(cfg: CfgNode) -> None:
    trainer = Unwritten(cfg)
    model, optimizer = nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)], lr=1.0)
    trainer.model, trainer.optimizer, trainer.data_loader = model, optimizer, [1]
    inner = trainer._trainer
    assert (inner.model, inner.optimizer, inner.data_loader) == (model, optimizer, [1])


def test_without_evaluator(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    cfg.DATASETS.TEST = ("mean_colour",)
    model = MeanColour(cfg).eval()
    with caplog.at_level(logging.WARNING, "detectron2"):
        assert DefaultTrainer.test(cfg, model) == {}
    assert "DefaultTrainer has no evaluator for 'mean_colour'" in caplog.text
    assert DefaultTrainer.test(cfg, model, Count()) == {"images": {"count": 2}}
    cfg.DATASETS.TEST = ("mean_colour", "mean_colour")
    with pytest.raises(ValueError, match=r"expected 2, one for each of DATASETS\.TEST, got 1"):
        DefaultTrainer.test(cfg, model, [Count()])


def test_results_are_expected_but_nothing_was_evaluated(cfg: CfgNode) -> None:
    cfg.TEST.EXPECTED_RESULTS = [["images", "count", 2, 0]]
    cfg.SOLVER.MAX_ITER = 1
    trainer = Unwritten(cfg)
    trainer._hooks = []
    with pytest.raises(RuntimeError, match="nothing was evaluated"):
        trainer.train()


def test_precise_bn_is_refused_where_it_matters(cfg: CfgNode) -> None:
    cfg.TEST.PRECISE_BN.ENABLED = True
    Unwritten(cfg)  # no batch normalisation in it
    cfg.GLOBAL.HACK = 2.0
    with pytest.raises(ValueError, match="PreciseBN is not part of the bundled runtime"):
        Unwritten(cfg)


def test_scaling_to_another_number_of_processes() -> None:
    cfg = get_cfg()
    solver = cfg.SOLVER
    solver.REFERENCE_WORLD_SIZE, solver.IMS_PER_BATCH, solver.BASE_LR = 8, 16, 0.1
    solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS = 5000, (4000, 4500), 101
    solver.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 1000, 300
    cfg.freeze()
    assert DefaultTrainer.auto_scale_workers(cfg, 8) is cfg
    scaled = DefaultTrainer.auto_scale_workers(cfg, 4)
    assert scaled.is_frozen()
    solver = scaled.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (8, 0.05, 10000)
    assert (solver.STEPS, solver.WARMUP_ITERS) == ((8000, 9000), 202)
    assert (solver.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD) == (2000, 600)
    assert solver.REFERENCE_WORLD_SIZE == 4
    cfg.defrost()
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 3
    with pytest.raises(ValueError, match=r"expected a divisor of SOLVER\.IMS_PER_BATCH = 16"):
        DefaultTrainer.auto_scale_workers(cfg, 2)


@pytest.mark.parametrize(("order", "expected"), [("RGB", [3, 2, 1]), ("BGR", [1, 2, 3])])
def test_predictor_takes_bgr(cfg: CfgNode, tmp_path: Path, order: str, expected: list[int]) -> None:
    weights = tmp_path / "w.pth"
    torch.save({"model": {"mean": torch.ones(3)}}, weights)
    cfg.MODEL.WEIGHTS, cfg.INPUT.FORMAT, cfg.DATASETS.TEST = str(weights), order, ("mean_colour",)
    predict = DefaultPredictor(cfg)
    image = np.full((20, 40, 3), (1, 2, 3), dtype=np.uint8)
    found = predict(image)
    mean: Tensor = found["mean"]
    assert (mean * 255).round().tolist() == expected
    assert found["sizes"] == (20, 40, (3, 10, 20))
    assert predict.model.mean.tolist() == [1.0] * 3  # type: ignore[union-attr, operator]
    assert predict.metadata.name == "mean_colour"
    # As other people's predictors do it.
    assert predict.aug.get_transform(image).apply_image(image).shape == (10, 20, 3)


def test_predictor_refuses(cfg: CfgNode) -> None:
    predict = DefaultPredictor(cfg)
    with pytest.raises(ValueError, match=r"\(height, width, 3\), BGR, got \(4, 5\)"):
        predict(np.zeros((4, 5), dtype=np.uint8))
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(ValueError, match="expected 'RGB' or 'BGR', got 'L'"):
        DefaultPredictor(cfg)

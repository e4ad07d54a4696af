# SPDX-License-Identifier: Apache-2.0
"""LVIS recipes: what differs from the COCO ones, and that they follow the data they are given."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from vitdet_d2.data.class_frequencies import FederatedClassWeights
from vitdet_d2.evaluation import LVISEvaluator
from vitdet_d2.heads import CascadeROIHeads, StandardROIHeads

ROOT = Path(__file__).parents[2]
SIZES = {"b": (2e-4, 0.7, 12), "l": (2e-4, 0.8, 24), "h": (1e-4, 0.9, 32)}
KINDS = ["lvis_vitdet", "lvis_cascade_vitdet"]
NAMES = [f"{kind}_{size}" for kind in KINDS for size in SIZES]


def load(name, *keys):
    return LazyConfig.load(str(ROOT / "projects" / f"{name}.py"), *keys)


@pytest.fixture(autouse=True)
def _no_data(monkeypatch, tmp_path):
    """A model is built without LVIS's files, wherever the tests run."""
    from detectron2.data import MetadataCatalog

    metadata = MetadataCatalog.get("lvis_v1_train")
    monkeypatch.setitem(metadata.__dict__, "json_file", str(tmp_path / "absent.json"))
    monkeypatch.setitem(metadata.__dict__, "class_image_count", None)


def predictors(model):
    with torch.device("meta"):
        heads = instantiate(model.roi_heads)
    several = isinstance(heads, CascadeROIHeads)
    return heads, list(heads.box_predictor) if several else [heads.box_predictor]


@pytest.mark.parametrize("name", NAMES)
def test_heads(name):
    cfg = load(name)
    heads, judges = predictors(cfg.model)
    cascade = "cascade" in name
    assert type(heads) is (CascadeROIHeads if cascade else StandardROIHeads)
    assert len(judges) == (3 if cascade else 1)
    for predictor in judges:
        assert predictor.cls_score.out_features == 1204
        assert predictor.use_fed_loss
        assert predictor.use_sigmoid_ce
        assert predictor.fed_loss_num_classes == 50
        assert predictor.fed_loss_cls_weights.shape == (1203,)
        assert (predictor.test_topk_per_image, predictor.test_score_thresh) == (300, 0.02)
    assert heads.mask_head.predictor.out_channels == 1203


@pytest.mark.parametrize("name", NAMES)
def test_data_schedule_and_optimizer(name):
    cfg = load(name)
    train, test = cfg.dataloader.train, cfg.dataloader.test
    assert (train.dataset.names, test.dataset.names) == ("lvis_v1_train", "lvis_v1_val")
    assert train.sampler.repeat_factors.dataset_dicts == train.dataset
    assert train.sampler.repeat_factors.repeat_thresh == 0.001
    assert cfg.dataloader.evaluator["_target_"] is LVISEvaluator
    assert cfg.dataloader.evaluator.dataset_name == "lvis_v1_val"
    images = cfg.train.max_iter * train.total_batch_size
    assert images / 100000 == pytest.approx(100)
    assert cfg.train.eval_period == 30000
    scheduler = cfg.lr_multiplier.scheduler
    assert [m / cfg.train.max_iter for m in scheduler.milestones] == pytest.approx(
        [8 / 9, 26 / 27], abs=1e-4
    )
    assert cfg.lr_multiplier.warmup_length * cfg.train.max_iter == pytest.approx(250)
    rate, decay, depth = SIZES[name[-1]]
    assert cfg.optimizer.lr == rate
    factor = cfg.optimizer.params.lr_factor_func
    assert (factor.lr_decay_rate, factor.num_layers) == (decay, depth)
    assert cfg.model.backbone.net.depth == depth
    assert cfg.model.backbone.net.drop_path_rate == (0.1 if name.endswith("b") else 0.4)
    coco = load(name.replace("lvis_", ""))
    assert cfg.train.init_checkpoint == coco.train.init_checkpoint
    assert cfg.model.backbone.net.embed_dim == coco.model.backbone.net.embed_dim
    assert cfg.dataloader.train.mapper == coco.dataloader.train.mapper


@pytest.mark.parametrize("kind", KINDS)
def test_classes_and_names_stand_in_one_place(kind):
    cfg = LazyConfig.apply_overrides(
        load(f"{kind}_b"),
        ["model.roi_heads.num_classes=7", "dataloader.train.dataset.names='mine'"],
    )
    heads = cfg.model.roi_heads
    node = heads.box_predictors[2] if "cascade" in kind else heads.box_predictor
    weights = instantiate(node.get_fed_loss_cls_weights)
    assert isinstance(weights, FederatedClassWeights)
    assert (weights.dataset_names, weights.num_classes) == (["mine"], 7)
    _, judges = predictors(cfg.model)
    assert [len(predictor.fed_loss_cls_weights) for predictor in judges] == [7] * len(judges)


@pytest.mark.parametrize("name", NAMES)
def test_parts_stand_alone(name):
    model, loader = load(name, "model"), load(name, "dataloader")
    _, judges = predictors(model)
    assert judges[0].cls_score.out_features == 1204
    assert loader.train.sampler.repeat_factors.dataset_dicts == loader.train.dataset


@pytest.mark.parametrize("name", NAMES)
def test_header_states_epochs_and_command(name):
    text = (ROOT / "projects" / f"{name}.py").read_text()
    assert "LVIS v1, 1024 px, 100 epochs" in text
    assert f"python train_net.py --config-file projects/{name}.py --num-gpus" in text
    assert "Not measured here yet." in text

# SPDX-License-Identifier: Apache-2.0
"""Cascade and Faster R-CNN recipes: the heads, and what a recipe without masks asks of its data."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.heads import CascadeROIHeads, StandardROIHeads

ROOT = Path(__file__).parents[2]
EPOCHS = {"b": 100, "l": 100, "h": 75}


def load(name):
    return LazyConfig.load(str(ROOT / "projects" / f"{name}.py"))


def heads_of(model):
    with torch.device("meta"):
        return instantiate(model.roi_heads)


@pytest.mark.parametrize("size", EPOCHS)
def test_cascade_is_its_mask_rcnn_with_other_heads(size):
    cascade, plain = load(f"cascade_vitdet_{size}"), load(f"vitdet_{size}")
    heads = heads_of(cascade.model)
    assert isinstance(heads, CascadeROIHeads)
    assert heads.mask_on
    assert [m.thresholds[1] for m in heads.proposal_matchers] == [0.5, 0.6, 0.7]
    weights = [p.box2box_transform.weights for p in heads.box_predictor]
    assert weights == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    assert all(p.bbox_pred.out_features == 4 for p in heads.box_predictor)
    for cfg in (cascade, plain):
        del cfg.model.roi_heads
    assert cascade == plain


@pytest.mark.parametrize("size", EPOCHS)
def test_faster_rcnn_is_its_mask_rcnn_without_masks(size):
    boxes, masks = load(f"faster_rcnn_vitdet_{size}"), load(f"vitdet_{size}")
    heads = heads_of(boxes.model)
    assert type(heads) is StandardROIHeads
    assert not heads.mask_on
    assert not [name for name, _ in heads.named_parameters() if "mask" in name]
    mapper = boxes.dataloader.train.mapper
    assert (mapper.use_instance_mask, mapper.recompute_boxes) == (False, False)
    assert list(boxes.dataloader.evaluator.tasks) == ["bbox"]
    assert boxes.optimizer == masks.optimizer
    assert boxes.train == masks.train
    assert boxes.model.backbone == masks.model.backbone


def test_number_of_classes_stands_in_one_place():
    cfg = LazyConfig.apply_overrides(load("cascade_vitdet_b"), ["model.roi_heads.num_classes=7"])
    heads = heads_of(cfg.model)
    assert [p.cls_score.out_features for p in heads.box_predictor] == [8] * 3
    assert heads.mask_head.predictor.out_channels == 7


def test_cascade_without_masks():
    """By the part that recipes share, and by an override of a recipe with masks."""
    cfg = LazyConfig.load(str(ROOT / "configs/models/cascade_rcnn_vitdet.py"))
    by_override = load_recipe("cascade_vitdet_b", ["model.roi_heads.mask_in_features=null"])
    first, second = heads_of(cfg.model), heads_of(by_override.model)
    assert isinstance(first, CascadeROIHeads)
    assert not first.mask_on
    assert not second.mask_on
    assert list(first.state_dict()) == list(second.state_dict())


def test_soft_nms_by_override():
    """As docs/recipes.md says."""
    soft = "vitdet_d2.heads.SoftNMSFastRCNNOutputLayers"
    cfg = load_recipe("vitdet_b", [f"model.roi_heads.box_predictor._target_={soft}"])
    assert heads_of(cfg.model).box_predictor.soft_nms_method == "linear"
    overrides = [
        "model.roi_heads._target_=vitdet_d2.heads.SoftNMSCascadeROIHeads",
        f"model.roi_heads.box_predictors.2._target_={soft}",
        "+model.roi_heads.box_predictors.2.soft_nms_method=gaussian",
    ]
    heads = heads_of(load_recipe("cascade_vitdet_b", overrides).model)
    assert type(heads).__name__ == "SoftNMSCascadeROIHeads"
    assert heads.box_predictor[2].soft_nms_method == "gaussian"
    assert list(heads.state_dict()) == list(heads_of(load("cascade_vitdet_b").model).state_dict())


@pytest.mark.parametrize("size", EPOCHS)
@pytest.mark.parametrize("kind", ["cascade_vitdet", "faster_rcnn_vitdet"])
def test_header_states_epochs_and_command(kind, size):
    text = (ROOT / "projects" / f"{kind}_{size}.py").read_text()
    assert f"{EPOCHS[size]} epochs" in text
    assert f"python train_net.py --config-file projects/{kind}_{size}.py --num-gpus" in text
    assert "Not measured here yet." in text
    assert ("Published: nothing" in text) == (kind == "faster_rcnn_vitdet")

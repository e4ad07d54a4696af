# SPDX-License-Identifier: Apache-2.0
"""Counts of whole detectors: the published models, other heads, other sizes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.backbone import Backbone
from torch import nn

from tests.analysis import closed_form_counts as formula
from tests.parity import retinanet_case
from vitdet_d2.analysis.complexity import count_recipe
from vitdet_d2.analysis.detector_count import (
    DetectorCount,
    Regions,
    count_detector,
    nominal_regions,
    total,
)
from vitdet_d2.analysis.runs import detect_much
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.errors import RecipeError

# GFLOPs of backbone and simple feature pyramid at 1024, in Detectron2's layout; of a whole
# forward pass at test.
PUBLISHED = {"b": (1109, 1679), "l": (3148, 3719), "h": (6156, 6727)}
SIZES = {"b": (768, 12, 12), "l": (1024, 24, 16), "h": (1280, 32, 16)}


@pytest.fixture(scope="module")
def counts() -> dict[str, DetectorCount]:
    return {size: count_recipe(load_recipe(f"vitdet_{size}"), None, "model") for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
def test_published_models(size, counts):
    count = counts[size]
    flops = {part: work.flops for part, work in count.test.items()}
    pyramid, whole = PUBLISHED[size]
    # Rounded to one GFLOP where they are from.
    assert (flops["backbone"] + flops["neck"]) / 1e9 == pytest.approx(pyramid, abs=0.5)
    assert sum(flops.values()) / 1e9 == pytest.approx(whole, abs=0.5)
    assert flops["rpn"] / 1e9 == pytest.approx(207, abs=0.5)
    assert flops["box_head"] / 1e9 == pytest.approx(258, abs=0.5)
    assert flops["mask_head"] / 1e9 == pytest.approx(106, abs=0.5)
    assert count.train["box_head"].flops / 1e9 == pytest.approx(132, abs=0.5)
    assert not count.notes


@pytest.mark.parametrize("size", SIZES)
def test_formulas_agree_to_the_last_digit(size, counts):
    count, (width, depth, heads) = counts[size], SIZES[size]
    vit = {"tokens": 64, "window": 14, "num_global": 4, "patch": 16}
    products = {
        "backbone": formula.vit_products(width, depth, heads, **vit),
        "neck": formula.pyramid_products(width, tokens=64),
        "rpn": formula.rpn_products(side=1024),
        "box_head": formula.box_products(1000),
        "mask_head": formula.mask_products(100),
    }
    assert {part: work.flops for part, work in count.test.items()} == {
        part: 2 * number for part, number in products.items()
    }
    assert count.train["box_head"].flops == 2 * formula.box_products(512)
    assert count.train["mask_head"].flops == 2 * formula.mask_products(128)
    assert count.test_regions == Regions(boxes=1000, masks=100)
    assert count.train_regions == Regions(boxes=512, masks=128)
    padding = (depth - 4) * (70**2 - 64**2) * 4 * width**2
    assert total(count.test).padding_flops == 2 * padding
    assert count.parameters["backbone"] == formula.vit_parameters(width, depth, heads, **vit)
    assert count.parameters["neck"] == formula.pyramid_parameters(width)


def test_documented_numbers(counts):
    text = (Path(__file__).parents[2] / "docs/complexity.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `vitdet_(\w+)` \| ([\d,]{9,} .*) \|$", text, flags=re.MULTILINE))
    assert list(rows) == ["ti", "s", "b", "l", "h"]
    for size, row in rows.items():
        count = counts.get(size) or count_recipe(
            load_recipe(f"vitdet_{size}"), (1024, 1024), "model"
        )
        flops = {part: f"{work.flops / 1e9:.1f}" for part, work in count.test.items()}
        train = {part: f"{work.flops / 1e9:.1f}" for part, work in count.train.items()}
        backbone = count.test["backbone"] + count.test["neck"]
        assert row.split(" | ") == [
            f"{sum(count.parameters.values()):,}",
            f"{backbone.flops / 1e9:.1f}",
            flops["rpn"],
            f"{flops['box_head']} / {train['box_head']}",
            f"{flops['mask_head']} / {train['mask_head']}",
            f"{total(count.test).flops / 1e9:.1f}",
            f"{total(count.train).flops / 1e9:.1f}",
            f"{total(count.train).activations / 1e6:.1f}",
        ]


def test_parameters_are_those_of_the_model(counts):
    cfg = load_recipe("vitdet_b")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert sum(counts["b"].parameters.values()) == sum(p.numel() for p in model.parameters())
    # Of Detectron2's own model of this recipe.
    assert sum(counts["b"].parameters.values()) == 110_895_792
    assert sum(counts["l"].parameters.values()) == 330_684_656


def test_backbone_alone():
    count = count_recipe(load_recipe("vitdet_ti"), (640, 640), "backbone")
    assert list(count.parameters) == ["backbone", "neck"]
    assert list(count.test) == ["backbone", "neck"]
    assert count.test == count.train
    assert count.test_regions is None


def test_sizes_are_enlarged_to_what_the_backbone_divides_by():
    cfg = load_recipe("quickstart")
    count = count_recipe(cfg, (100, 130), "backbone")
    assert count.image_size == (112, 144)
    assert count_recipe(cfg, (112, 144), "backbone").test == count.test
    assert count_recipe(cfg, None, "backbone").image_size == (192, 192)


def test_cascade_counts_every_stage(counts):
    count = count_recipe(load_recipe("cascade_vitdet_b"), None, "model")
    assert count.test["backbone"] == counts["b"].test["backbone"]
    one = formula.box_products(1000) - 1000 * 1024 * 4 * 79  # class-agnostic boxes
    assert count.test["box_head"].flops == 2 * 3 * one


@pytest.mark.parametrize("neck", ["fpn_4stage", "fpn_last_map", "none", "sfp"])
def test_every_neck_leaves_the_same_backbone(neck):
    cfg = load_recipe(f"ablation/neck_{neck}_b")
    count = count_recipe(cfg, (256, 256), "backbone")
    with torch.device("meta"):
        backbone = instantiate(cfg.model.backbone)
    body = sum(p.numel() for p in backbone.net.parameters())
    assert count.parameters["backbone"] == body
    assert sum(count.parameters.values()) == sum(p.numel() for p in backbone.parameters())
    vit = {"tokens": 16, "window": 14, "num_global": 4, "patch": 16}
    without_terms = formula.vit_products(768, 12, 12, **vit) - count.test["backbone"].flops // 2
    terms = 12 * 64 * (8 * 28**2 * 2 * 14 + 4 * 16**2 * 2 * 16)
    uses_terms = cfg.model.backbone.net.use_rel_pos
    assert without_terms == (0 if uses_terms else terms)
    assert count.test["neck"].flops > 0


def test_boxes_only(counts):
    count = count_recipe(load_recipe("faster_rcnn_vitdet_b"), None, "model")
    assert "mask_head" not in count.test
    assert "mask_head" not in count.parameters
    assert count.test_regions == Regions(boxes=1000, masks=0)
    assert count.test["box_head"] == counts["b"].test["box_head"]


def test_size_of_a_recipe_that_does_not_tell():
    cfg = load_recipe("quickstart", ["model.backbone.square_pad=0"])
    assert count_recipe(cfg, None, "backbone").image_size == (192, 192)
    cfg.model.backbone.net.img_size = 192
    cfg.dataloader.train.mapper.augmentations.append({"crop_size": [96, 128]})
    del cfg["data"], cfg.dataloader["image_size"]
    assert count_recipe(cfg, None, "backbone").image_size == (96, 128)
    del cfg.dataloader.train
    with pytest.raises(RecipeError, match=r"give --size, for example --size 1024"):
        count_recipe(cfg, None, "backbone")


def test_number_of_boxes_follows_the_recipe():
    overrides = ["model.roi_heads.batch_size_per_image=64", "model.roi_heads.positive_fraction=0.5"]
    overrides += ["model.proposal_generator.post_nms_topk=[9, 7]"]
    overrides += ["+model.roi_heads.box_predictor.test_topk_per_image=5"]
    count = count_recipe(load_recipe("quickstart", overrides), None, "model")
    assert count.train_regions == Regions(boxes=64, masks=32)
    assert count.test_regions == Regions(boxes=7, masks=5)


class Pixels(Backbone):
    """Maps of two strides, without a neck."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2)
        self.down = nn.Conv2d(4, 4, 2, stride=2)
        self._out_features = ["fine", "coarse"]
        self._out_feature_channels = dict.fromkeys(self._out_features, 4)
        self._out_feature_strides = {"fine": 2, "coarse": 4}

    @property
    def size_divisibility(self) -> int:
        return 4

    def forward(self, x: Any) -> dict[str, Any]:
        fine = self.stem(x)
        return {"fine": fine, "coarse": self.down(fine)}


class Dense(nn.Module):
    """As RetinaNet: a head on all maps; and a part that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Pixels()
        self.head = nn.ModuleDict({"score": nn.Conv2d(4, 2, 1)})
        self.head.forward = lambda maps: [self.head["score"](x) for x in maps]  # type: ignore[method-assign]
        self.head_in_features = ["coarse"]
        self.depth_estimator = nn.Linear(2, 2)


def test_dense_heads_and_unknown_parts():
    count = count_detector(Dense(), (8, 12))
    assert {part: work.flops for part, work in count.test.items()} == {
        "backbone": 2 * (24 * 4 * 12 + 6 * 4 * 16),
        "dense_head": 2 * 6 * 2 * 4,
    }
    assert count.test == count.train
    assert count.parameters == {"backbone": 52 + 68, "dense_head": 10, "other": 6}
    assert count.notes == ("not counted: depth_estimator",)


def test_retinanet_equals_its_closed_form():
    model = retinanet_case.build(retinanet_case.CASES["l1"], "eval")
    count = count_detector(model, (128, 160))
    cells = [16 * 20, 8 * 10, 4 * 5, 2 * 3, 1 * 2]  # strides 8 to 128
    # Two towers of two convolutions of 32 channels; 9 anchors of 5 classes and 4 sides.
    head = sum(cells) * 9 * 32 * (4 * 32 + 9 * 5 + 9 * 4)
    assert count.test["dense_head"].flops == 2 * head
    # 1x1 laterals, 3x3 outputs, and P6 of the last stage's map, P7 of P6.
    laterals = cells[0] * 12 + cells[1] * 16 + cells[2] * 24
    top = cells[3] * 24 + cells[4] * 32
    assert count.test["neck"].flops == 2 * 32 * (laterals + 9 * 32 * sum(cells[:3]) + 9 * top)
    assert (count.notes, count.test_regions) == ((), None)
    assert sum(count.parameters.values()) == sum(p.numel() for p in model.parameters())


def test_retinanet_is_measured_with_as_much_as_it_may_detect():
    model = retinanet_case.build(retinanet_case.CASES["l1"], "eval", seed=0).eval()
    batch = retinanet_case.inputs(retinanet_case.CASES["l1"])[:1]
    with torch.no_grad():
        assert len(model(batch)[0]["instances"]) == 0
        detect_much(model)
        assert len(model(batch)[0]["instances"]) == model.max_detections_per_image


def test_heads_of_another_kind_are_refused():
    model = Dense()
    model.roi_heads = nn.Linear(2, 2)
    with pytest.raises(RecipeError, match=r"Linear has no box_pooler.*--part backbone"):
        nominal_regions(model, training=True)

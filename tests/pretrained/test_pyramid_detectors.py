# SPDX-License-Identifier: Apache-2.0
"""Weights of pyramid transformers in detectors, and of detectors with one."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from tests.pretrained import golden, key_lists
from tests.pretrained.pyramid_detector import detector_part, released
from tests.pretrained.pyramid_golden import OURS, build, load_pyramid
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import load


@pytest.mark.parametrize("name", OURS)
def test_a_detector_takes_an_encoder_and_its_statistics(name: str) -> None:
    made = load_pyramid(name)
    model = detector_part(name)
    report = load(model, "x.pth", content={"state_dict": made.state()})
    made.assert_maps(model.backbone.bottom_up)
    assert all(loaded.startswith("backbone.bottom_up.") for loaded in report.loaded)
    assert len(report.initialised) == 18  # 16 of the neck, and two buffers
    assert not report.missing
    torch.testing.assert_close(
        model.pixel_mean.flatten(), torch.tensor([123.675, 116.28, 103.53]), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("kind", ["whole", "neck", "bottom_up"])
def test_files_of_our_detectors_go_on(kind: str) -> None:
    """A checkpoint goes into an equal detector, and its backbone into a bare one."""
    first, second = detector_part(), detector_part()
    golden.fill_model(first)
    state = first.state_dict()
    wanted: nn.Module = first
    if kind == "neck":
        second, wanted = second.backbone, first.backbone
    elif kind == "bottom_up":
        second, wanted = second.backbone.bottom_up, first.backbone.bottom_up
    report = load(second, "model_final.pth", content={"model": state})
    assert report.kind == "detector"
    assert not report.missing
    for name, value in wanted.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


@pytest.mark.parametrize("prefix", ["backbone.bottom_up.", "bottom_up.", "module.backbone."])
def test_a_backbone_below_a_prefix_is_taken_as_one(prefix: str) -> None:
    made = load_pyramid("pvt_v2")
    content = {prefix + name: value for name, value in made.state().items()}
    for model in (detector_part("pvt_v2"), build("pvt_v2")):
        report = load(model, "x.pth", content=content)
        assert report.origin == "PVT v2"
        assert "".join(report.wrappers) == prefix
        made.assert_maps(model.backbone.bottom_up if hasattr(model, "backbone") else model)


def test_detector_takes_a_backbone_with_its_neck() -> None:
    first, second = detector_part("mit"), detector_part("mit")
    golden.fill_model(first.backbone)
    report = load(second, "x.pth", content=dict(first.backbone.state_dict()))
    assert report.kind == "detector"
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(second.backbone.state_dict()[name], value), name


def test_positions_of_a_detector_are_resized_bilinearly() -> None:
    first, second = detector_part(), detector_part(pretrain_img_size=96)
    golden.fill_model(first)
    report = load(second, "model_final.pth", content={"model": first.state_dict()})
    assert len(report.resized) == 4
    encoder = build("pvt", pretrain_img_size=96)
    load(encoder, "x.pth", content=dict(first.backbone.bottom_up.state_dict()))
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(second.backbone.bottom_up.state_dict()[name], value)


@pytest.mark.parametrize(("recipe", "file", "advice"), [
    ("mask_rcnn_pvt_tiny", "pvt_v2:b2", "use --config-file mask_rcnn_pvt_v2_b2"),
    ("retinanet_pvt_tiny", "pvt:small", "use --config-file retinanet_pvt_small"),
    ("retinanet_pvt_v2_b0", "pvt_v2:b2_li", "use --config-file retinanet_pvt_v2_b2_li"),
])  # fmt: skip
def test_the_recipe_for_the_weights_is_named(recipe: str, file: str, advice: str) -> None:
    with torch.device("meta"):
        model = instantiate(load_recipe(recipe, []).model)
    with pytest.raises(WeightsError, match=f"{advice}$"):
        load(model, "x.pth", content=released(file))


def test_a_mit_goes_where_a_pvt_v2_is() -> None:
    """By the overrides of docs/pretrained.md."""
    node = "model.backbone.bottom_up"
    overrides = [
        f"{node}._target_=vitdet_d2.backbones.MiT", f"{node}.mlp_ratios=[4,4,4,4]",
        f"~{node}.linear",
    ]  # fmt: skip
    cfg = load_recipe("mask_rcnn_pvt_v2_b2", overrides)
    with torch.device("meta"):
        backbone = instantiate(cfg.model.backbone.bottom_up)
    report = load(backbone, "x.pth", content=dict(key_lists.read("pyramids/mit_b2")))
    assert report.verdict.startswith("all that MiT supplies: 332 of 332")


def test_detectors_with_other_heads_are_named() -> None:
    with torch.device("meta"):
        dense, masks, plain = (
            instantiate(load_recipe(name, []).model)
            for name in ("retinanet_pvt_tiny", "mask_rcnn_pvt_tiny", "vitdet_b")
        )
        overrides = ["model.num_classes=5"]
        five = instantiate(load_recipe("retinanet_pvt_tiny", overrides).model)
    for model, other, recipe in (
        (dense, masks, "mask_rcnn_pvt_tiny"), (masks, dense, "retinanet_pvt_tiny")
    ):  # fmt: skip
        message = rf"the file is one of {recipe}: use --config-file {recipe}$"
        with pytest.raises(WeightsError, match=message):
            load(model, "x.pth", content=dict(other.state_dict()), strict_heads=True)
    message = (
        r"the file has 5 classes, the recipe 80 classes: retinanet_pvt_tiny; .* set model\.num"
    )
    with pytest.raises(WeightsError, match=message):
        load(dense, "x.pth", content=dict(five.state_dict()), strict_heads=True)
    message = (
        r"no tensor has a name of the model's\..*ViT of width 768, depth 12, patch 16 in the file, "
        r"PVT of widths .* in the model; .*: use --config-file vitdet_b$"
    )
    with pytest.raises(WeightsError, match=message):
        load(dense, "x.pth", content=dict(plain.state_dict()))

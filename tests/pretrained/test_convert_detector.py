# SPDX-License-Identifier: Apache-2.0
"""Whole detectors: what they carry goes along, and Detectron2 gets only what it can build."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.pretrained.golden import fill_model
from vitdet_d2.backbones import ViT
from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.necks import SimpleFeaturePyramid
from vitdet_d2.pretrained import convert, load, read_weights, write_weights
from vitdet_d2.pretrained.entry import read_entry

NAMES, IDS = ["ant", "bee"], [5, 9]
MEAN, STD = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
OPTIONS = {"_target_": "vitdet_d2.backbones.vit.ViT", "layer_scale_init": 1.0, "qkv_bias": "qv"}


class Detector(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        sizes: dict[str, Any] = {
            "img_size": 32, "pretrain_img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2,
            "num_heads": 3, "mlp_ratio": 2, "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        }  # fmt: skip
        self.backbone = SimpleFeaturePyramid(
            ViT(**{**sizes, **options}), "last_feat", 8, (2.0, 1.0), norm="LN"
        )
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.ones(3, 1, 1), persistent=False)


def entry(**net: Any) -> dict[str, Any]:
    backbone = {"_target_": "vitdet_d2.necks.SimpleFeaturePyramid", "net": {**OPTIONS, **net}}
    recipe = json.dumps({"model": {"backbone": backbone}})
    return {
        "schema": 1, "thing_classes": NAMES, "dataset_ids": IDS, "pixel_mean": MEAN,
        "pixel_std": STD, "input_format": "RGB", "recipe": recipe,
    }  # fmt: skip


def checkpoint(path: Path, model: nn.Module, saved: Any = None, **extra: Any) -> Path:
    torch.save({"model": model.state_dict(), "vitdet_d2": saved or entry(), **extra}, path)
    return path


def filled(**options: Any) -> Detector:
    model = Detector(**options)
    fill_model(model)
    return model


def features(model: Detector) -> dict[str, Tensor]:
    with torch.no_grad():
        return model.backbone(torch.rand(1, 3, 32, 32, generator=torch.manual_seed(0)))


@pytest.mark.parametrize("name", ["out.safetensors", "out.pth", "out.pkl"])
def test_what_a_detector_carries_goes_along(name: str, tmp_path: Path) -> None:
    model = filled()
    source = checkpoint(tmp_path / "in.pth", model, optimizer={}, ema={}, iteration=7)
    converted = convert(source)
    assert converted.dropped == ("optimizer", "ema", "iteration")
    assert any("averaged weights" in note for note in converted.notes)
    write_weights(tmp_path / name, converted.tensors, converted.entry)
    again = read_entry(name, read_weights(tmp_path / name))
    assert again is not None
    assert again.pop("written_by").startswith("vitdet_d2 ")
    assert again == entry()
    other = Detector()
    report = load(other, tmp_path / name)
    assert report.thing_classes == tuple(NAMES)
    assert (other.pixel_mean.flatten().tolist(), other.pixel_std.flatten().tolist()) == (MEAN, STD)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_what_arithmetic_can_remove_is_removed_for_detectron2(tmp_path: Path) -> None:
    model = filled(layer_scale_init=1.0, qkv_bias="qv")
    source = checkpoint(tmp_path / "in.pth", model)
    converted = convert(source, to="detectron2")
    plain = Detector()
    assert converted.tensors.keys() == plain.state_dict().keys()
    assert converted.folded == 4
    plain.load_state_dict(converted.tensors)
    for name, value in features(model).items():
        torch.testing.assert_close(features(plain)[name], value, rtol=0, atol=1e-5)
    # The recipe that goes along builds the model of the new file.
    net = json.loads(converted.entry["recipe"])["model"]["backbone"]["net"]
    assert (net["layer_scale_init"], net["qkv_bias"]) == (None, True)


def test_layer_scale_is_kept_or_folded_for_ours(tmp_path: Path) -> None:
    model = filled(layer_scale_init=1.0)
    source = checkpoint(tmp_path / "in.pth", model)
    assert convert(source).tensors.keys() == model.state_dict().keys()
    folded = convert(source, layer_scale="fold")
    plain = Detector()
    plain.load_state_dict(folded.tensors)
    for name, value in features(model).items():
        torch.testing.assert_close(features(plain)[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rel_pos_bias": "shared"}, r"biases of relative positions \(backbone\.net\.rel_pos_bias"),
        ({"pre_norm": True}, r"a norm before the blocks \(backbone\.net\.norm_pre"),
        ({"mlp": "swiglu"}, r"gated perceptrons \(backbone\.net\.blocks\.0\.mlp\.w1"),
        (
            {"residual_block_indexes": [1], "conv_block": "naive"},
            r"convolutional blocks other than bottlenecks \(backbone\.net\.blocks\.1\.residual",
        ),
    ],
)
def test_names_that_detectron2_has_not_are_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source = checkpoint(tmp_path / "in.pth", Detector(**options))
    with pytest.raises(WeightsError, match=f"Detectron2's ViT cannot be .* no {words}"):
        convert(source, to="detectron2")
    assert convert(source).tensors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rope": "half"}, r"rotary positions \(model\.backbone\.net\.rope\)"),
        ({"act": "quick_gelu"}, r"the activation quick_gelu \(model\.backbone\.net\.act\)"),
        ({"cross_window": "shifted"}, r"shifted windows \(model\.backbone\.net\.cross_window\)"),
        ({"_target_": "vitdet_d2.backbones.pvt.Pvt"}, r"Pvt \(model\.backbone\.net\._target_\)"),
    ],
)
def test_options_that_no_tensor_shows_are_refused_by_the_recipe(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source = checkpoint(tmp_path / "in.pth", Detector(), entry(**options))
    with pytest.raises(WeightsError, match=f"Detectron2's ViT cannot be .* no {words}"):
        convert(source, to="detectron2")


def test_bottlenecks_and_plain_options_are_detectron2s(tmp_path: Path) -> None:
    model = filled(residual_block_indexes=[1], conv_block="bottleneck")
    saved = entry(act="gelu", cross_window="conv", rope=None)
    source = checkpoint(tmp_path / "in.pth", model, saved)
    converted = convert(source, to="detectron2")
    assert converted.tensors.keys() == model.state_dict().keys()
    assert converted.notes == ()


def test_a_file_without_a_recipe_says_what_is_not_compared(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in.pth", Detector(), {"schema": 1})
    (note,) = convert(source, to="detectron2").notes
    assert "carries no recipe" in note
    # What Detectron2 wrote is its own.
    write_weights(tmp_path / "zoo.pkl", Detector().state_dict())
    assert convert(tmp_path / "zoo.pkl", to="detectron2").notes == ()


def test_options_of_encoders_are_not_those_of_detectors(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "in.pth", Detector())
    with pytest.raises(RecipeError, match=r"patch_size=16 is for encoders, .* a whole detector"):
        convert(source, patch_size=16)
    assert convert(source, source="mae").notes == (
        "source=mae is not used: the names of a detector tell all",
    )

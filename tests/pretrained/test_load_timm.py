# SPDX-License-Identifier: Apache-2.0
"""Weights of models of timm: by everybody's names, and refused by name where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from detectron2.config import instantiate
from detectron2.modeling.backbone import FPN
from torch import Tensor, nn

from tests.backbones.timm_case import MVIT_CLASS_TOKEN, SWIN
from tests.backbones.timm_parity import THEIRS, name_of_ours, ours, their_names
from tests.pretrained import key_lists
from vitdet_d2.backbones import TimmBackbone, ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.layers.norm import layer_norm
from vitdet_d2.pretrained import load
from vitdet_d2.zoo import get_config

OFFICIAL = Path(__file__).parent / "timm_keys"
HEADS = {"roi_heads.box_predictor.cls_score.weight": torch.zeros(81, 4)}


class Detector(nn.Module):
    """A backbone with a pyramid; heads add nothing here."""

    def __init__(self, bottom_up: TimmBackbone) -> None:
        super().__init__()
        self.backbone = FPN(bottom_up, list(bottom_up.output_shape()), 8)


def randomised(kind: str) -> TimmBackbone:
    net = ours(kind)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def by_their_names(kind: str, net: TimmBackbone) -> dict[str, Tensor]:
    """Return the weights as Detectron2's class names them."""
    places = name_of_ours(kind, their_names(kind))
    state = net.state_dict()
    return {theirs: state[place] for theirs, place in places.items()}


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


@pytest.mark.parametrize("kind", list(THEIRS))
@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up.", "model."])
def test_a_backbone_of_detectron2_goes_into_a_detector(kind: str, prefix: str) -> None:
    source = randomised(kind)
    file = {prefix + name: value for name, value in by_their_names(kind, source).items()}
    detector = Detector(ours(kind))
    report = load(detector, "x.pth", content=file)
    assert_same(detector.backbone.bottom_up.state_dict(), source.state_dict())
    assert report.kind == "encoder"
    assert "Detectron2" in report.origin
    assert not (report.missing)
    assert not (report.mismatched)
    assert not (report.dropped)
    assert not (report.resized)
    assert report.supplied == (len(file), len(file))
    assert all(name.startswith("backbone.fpn_") for name in report.initialised)


@pytest.mark.parametrize("kind", list(THEIRS))
def test_a_detector_goes_into_a_detector_and_into_a_bare_backbone(kind: str) -> None:
    source = Detector(randomised(kind))
    theirs = {
        f"backbone.bottom_up.{name}": value
        for name, value in by_their_names(kind, source.backbone.bottom_up).items()
    }
    pyramid = {k: v for k, v in source.state_dict().items() if "bottom_up" not in k}
    for names in (theirs, {k: v for k, v in source.state_dict().items() if "bottom_up" in k}):
        detector, bare = Detector(ours(kind)), ours(kind)
        report = load(detector, "x.pth", content={**names, **pyramid, **HEADS})
        assert report.kind == "detector"
        assert report.unexpected == tuple(HEADS)
        assert_same(detector.state_dict(), source.state_dict())
        report = load(bare, "x.pth", content={**names, **pyramid, **HEADS})
        assert set(report.dropped) == {*pyramid, *HEADS}
        assert_same(bare.state_dict(), source.backbone.bottom_up.state_dict())


@pytest.mark.parametrize("name", [SWIN, MVIT_CLASS_TOKEN, "test_resnet", "test_convnext"])
@pytest.mark.parametrize("wrapper", ["state_dict", None])
def test_files_of_timm_load_by_their_names(name: str, wrapper: str | None) -> None:
    whole = timm.create_model(name)
    state: dict[str, Any] = whole.state_dict()
    net = TimmBackbone(name)
    report = load(net, "x.pth", content={wrapper: state} if wrapper else state)
    assert report.origin == "timm"
    for key, value in net.net.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert {key.partition(".")[0] for key in report.dropped} <= {"norm", "head", "fc", "norm_pre"}
    assert not (report.missing)
    assert not (report.mismatched)


@pytest.mark.parametrize(
    ("recipe", "file", "wrapper", "dropped"),
    [
        ("cascade_swin_b", "swin_b", "model", {"norm", "head", "layers"}),
        ("cascade_mvitv2_b", "mvitv2_b", "model_state", {"norm", "head", "cls_token"}),
    ],
)
def test_official_classification_models_have_a_place_for_every_tensor(
    recipe: str, file: str, wrapper: str, dropped: set[str]
) -> None:
    state = key_lists.read(file, OFFICIAL)
    node = get_config(recipe).model.backbone.bottom_up
    node.out_norm = None  # of the norms of the maps no such file knows
    with torch.device("meta"):
        net = instantiate(node)
    report = load(net, "x.pth", content={wrapper: state})
    assert {name.partition(".")[0] for name in report.dropped} == dropped
    assert len(report.loaded) == len(state) - len(report.dropped)
    assert not (report.missing)
    assert not (report.mismatched)
    assert not (report.resized)
    assert set(report.loaded) == set(net.state_dict())


def test_another_size_is_refused_by_shape() -> None:
    with torch.device("meta"):
        net = instantiate(get_config("cascade_swin_l").model.backbone.bottom_up)
    with pytest.raises(
        WeightsError,
        match=r"x.pth: \d+ tensors have another shape than those of timm model 'swin_large_\w+', "
        r"for example net.patch_embed.proj.weight \(128, 3, 4, 4\) for \(192, 3, 4, 4\)",
    ):
        load(net, "x.pth", content=key_lists.read("swin_b", OFFICIAL))


def test_other_files_are_refused() -> None:
    net = TimmBackbone(SWIN, out_norm=layer_norm(1e-5))
    with pytest.raises(WeightsError, match=rf"no tensor has a name of timm model '{SWIN}'"):
        load(net, "x.pth", content=timm.create_model("test_resnet").state_dict())
    state = dict(timm.create_model(SWIN).state_dict())
    with pytest.raises(WeightsError, match=r"1 names are not those of timm model.*odd.weight"):
        load(net, "x.pth", content={**state, "odd.weight": torch.zeros(1)})
    few = {key: value for key, value in state.items() if not key.startswith("layers.3")}
    with pytest.raises(WeightsError, match=r"29 of \d+ tensors .* are not in the file"):
        load(net, "x.pth", content=few)
    before = net.net.layers[3].blocks[0].norm1.weight.clone()
    report = load(net, "x.pth", content=few, allow_partial=True)
    assert len(report.missing) == 29
    assert torch.equal(net.net.layers[3].blocks[0].norm1.weight, before)


def test_the_state_dict_of_a_backbone_goes_back_into_it() -> None:
    source, net = randomised("swin"), ours("swin")
    report = load(net, "x.pth", content=source.state_dict())
    assert_same(net.state_dict(), source.state_dict())
    assert not report.dropped


@pytest.mark.parametrize(("file", "kind"), [("swin_b", "a Swin"), ("mvitv2_b", "an MViTv2")])
def test_a_plain_vit_says_where_they_go(file: str, kind: str) -> None:
    vit = ViT(img_size=32, embed_dim=8, depth=1, num_heads=1)
    with pytest.raises(
        WeightsError, match=rf"it is {kind} .* neither a plain ViT nor a PVT .* with TimmBackbone"
    ):
        load(vit, "x.pth", content={"model": key_lists.read(file, OFFICIAL)})

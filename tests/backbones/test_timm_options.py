# SPDX-License-Identifier: Apache-2.0
"""``MODEL.TIMM``: every argument is an option, and the pyramid above it is Detectron2's."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import build_backbone

from tests.backbones.timm_case import SWIN
from vitdet_d2.backbones import TimmBackbone, add_vitdet_config, registration
from vitdet_d2.errors import RecipeError


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_vitdet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = SWIN
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    return cfg


def test_every_argument_is_an_option_with_its_default() -> None:
    cfg = get_cfg()
    add_vitdet_config(cfg)
    parameters = inspect.signature(TimmBackbone).parameters
    own = {"NORM_EPS", "TOP_BLOCK", "SQUARE_PAD"}
    assert set(cfg.MODEL.TIMM) == {name.upper() for name in parameters if name != "in_chans"} | own
    for name, parameter in parameters.items():
        if name not in ("name", "in_chans", "out_norm"):
            assert cfg.MODEL.TIMM[name.upper()] == parameter.default, name


def test_every_option_arrives(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    built: dict[str, Any] = {}

    class Recorder(TimmBackbone):
        def __init__(self, **arguments: Any) -> None:
            built.update(arguments)
            super().__init__(**arguments)

    monkeypatch.setattr(registration, "TimmBackbone", Recorder)
    options = cfg.MODEL.TIMM
    options.OUT_INDICES, options.OUT_NORM, options.NORM_EPS = [1, 2], "LN", 0.25
    options.DROP_PATH_RATE, options.FROZEN_STAGES, options.USE_ACT_CHECKPOINT = 0.3, 1, True
    net = registration.build_timm_backbone(cfg, ShapeSpec(channels=4))
    assert built.keys() == inspect.signature(TimmBackbone).parameters.keys()
    assert (built["drop_path_rate"], built["frozen_stages"], built["in_chans"]) == (0.3, 1, 4)
    assert list(net.output_shape()) == ["layers.1", "layers.2"]
    assert net.norm2.eps == 0.25
    assert net.use_act_checkpoint


def test_the_pyramid_of_mask_rcnn(cfg: CfgNode) -> None:
    net = build_backbone(cfg)
    assert list(net.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert isinstance(net.bottom_up, TimmBackbone)
    maps = net(torch.randn(1, 3, 64, 96))
    assert maps["p2"].shape == (1, 8, 16, 24)
    assert maps["p6"].shape == (1, 8, 1, 2)


def test_models_of_one_size_pad_to_it(cfg: CfgNode) -> None:
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.IMG_SIZE = "hiera_tiny_224", 256
    with torch.device("meta"):
        assert build_backbone(cfg).padding_constraints["square_size"] == 256
        cfg.MODEL.TIMM.SQUARE_PAD = 320
        assert build_backbone(cfg).padding_constraints["square_size"] == 320


def test_retinanet_stands_on_it(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "RetinaNet", "cpu"
    cfg.MODEL.TIMM.TOP_BLOCK = "LastLevelP6P7"
    cfg.MODEL.RETINANET.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CONVS = 3, 1
    cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    model = build_model(cfg).eval()
    assert list(model.backbone.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]
    assert model.backbone.top_block.p6.in_channels == 96  # of the last map, not of the pyramid
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, 60, 90)}])
    assert result["instances"].image_size == (60, 90)


def test_retinanet_without_its_top_block_says_what_to_set(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    with pytest.raises(
        RecipeError, match=r"has no 'p7', its levels are p2, .*MODEL.TIMM.TOP_BLOCK: LastLevelP6P7"
    ):
        build_backbone(cfg)


def test_all_that_learns_has_a_gradient(cfg: CfgNode) -> None:
    """A norm of a map that the pyramid does not read would stop training on several GPUs."""
    cfg.MODEL.TIMM.TOP_BLOCK, cfg.MODEL.TIMM.OUT_NORM = "LastLevelP6P7", "LN"
    net = build_backbone(cfg)
    sum(m.sum() for m in net(torch.randn(1, 3, 64, 96)).values()).backward()
    assert [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None] == []
    still = [name for name, p in net.named_parameters() if not p.requires_grad]
    assert still == ["bottom_up.norm0.weight", "bottom_up.norm0.bias"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"NAMES": 1}, r"MODEL.TIMM: unknown NAMES \(did you mean NAME\?\); expected"),
        ({"NAME": ""}, r"MODEL.TIMM.NAME: expected a model of timm"),
        ({"DROP_PATH_RATE": "a"}, r"MODEL.TIMM.DROP_PATH_RATE: expected float or None, got 'a'"),
        ({"OUT_INDICES": ["a"]}, r"MODEL.TIMM.OUT_INDICES: expected a list of int or None"),
        ({"OUT_NORM": "BN"}, r"MODEL.TIMM.OUT_NORM: expected '' or 'LN', got 'BN'"),
        ({"TOP_BLOCK": "P6"}, r"MODEL.TIMM.TOP_BLOCK: expected one of '', 'LastLevelMaxPool', "),
    ],
)
def test_wrong_options_are_named(cfg: CfgNode, options: dict[str, Any], message: str) -> None:
    for key, value in options.items():
        cfg.MODEL.TIMM[key] = value
    with pytest.raises(RecipeError, match=message):
        build_backbone(cfg)


def test_maps_that_are_not_there_are_named(cfg: CfgNode) -> None:
    cfg.MODEL.FPN.IN_FEATURES = ["res2"]
    with pytest.raises(RecipeError, match=r"has no 'res2'; expected some of layers.0, layers.1"):
        build_backbone(cfg)


def test_missing_options_say_what_to_call() -> None:
    with pytest.raises(RecipeError, match=r"MODEL.TIMM: .*add_vitdet_config\(cfg\) after get_cfg"):
        registration.build_timm_backbone(get_cfg(), ShapeSpec(channels=3))

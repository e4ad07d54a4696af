# SPDX-License-Identifier: Apache-2.0
"""The keys of our backbones: every argument is an option, wrong ones are named."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_backbone
from torch import nn

from tests.backbones.vit_case import TINY
from vitdet_d2.backbones import ViT, add_vitdet_config, registration
from vitdet_d2.errors import RecipeError
from vitdet_d2.necks import SimpleFeaturePyramid

IMAGE = ShapeSpec(channels=3)


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_vitdet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_vit_backbone"
    for name, value in TINY.items():
        cfg.MODEL.VIT[name.upper()] = value
    return cfg


def test_every_argument_is_an_option_with_its_default() -> None:
    cfg = get_cfg()
    add_vitdet_config(cfg)
    for target, node, own, excluded in (
        (ViT, cfg.MODEL.VIT, {"SIZE", "NORM_EPS"}, {"in_chans"}),
        (SimpleFeaturePyramid, cfg.MODEL.SFP, set(), {"net", "in_feature"}),
    ):
        parameters = inspect.signature(target).parameters
        assert set(node) == {name.upper() for name in parameters if name not in excluded} | own
        for name, parameter in parameters.items():
            is_plain = isinstance(parameter.default, int | float | str | tuple | None)
            if is_plain and name not in {*excluded, "top_block", "qkv_bias"}:
                assert node[name.upper()] == parameter.default, name
    # Plain values only: the configuration can be written and read.
    again = get_cfg()
    add_vitdet_config(again)
    again.merge_from_other_cfg(CfgNode.load_cfg(cfg.dump()))
    assert (again.MODEL.VIT, again.MODEL.SFP) == (cfg.MODEL.VIT, cfg.MODEL.SFP)


def test_what_is_there_stays() -> None:
    cfg = get_cfg()
    cfg.MODEL.VIT = type(cfg)({"DEPTH": 7})
    cfg.SOLVER.OPTIMIZER = "SGD"
    add_vitdet_config(cfg)
    add_vitdet_config(cfg)
    assert (cfg.MODEL.VIT.DEPTH, cfg.MODEL.VIT.WINDOW_SIZE) == (7, 0)
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.LAYER_DECAY) == ("SGD", 1.0)


def test_every_option_arrives(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    built: dict[str, Any] = {}

    class Recorder(ViT):
        def __init__(self, **arguments: Any) -> None:
            built.update(arguments)
            super().__init__(**arguments)

    monkeypatch.setattr(registration, "ViT", Recorder)
    cfg.MODEL.VIT.CROSS_WINDOW, cfg.MODEL.VIT.WINDOW_BLOCK_INDEXES = "conv", ()
    cfg.MODEL.VIT.CROSS_WINDOW_INDEXES = [0]
    cfg.MODEL.VIT.CONV_BLOCK, cfg.MODEL.VIT.OUT_BLOCK_INDEXES = "naive", (0, 1)
    cfg.MODEL.VIT.NORM_EPS, cfg.MODEL.VIT.ACT_LAYER = 0.25, "SiLU"
    net = registration.build_vit_backbone(cfg, IMAGE)
    assert built.keys() == inspect.signature(ViT).parameters.keys()
    assert (built["cross_window"], built["cross_window_indexes"]) == ("conv", [0])
    assert (built["conv_block"], built["in_chans"]) == ("naive", 3)
    assert list(net.output_shape()) == ["stage1", "stage2", "last_feat"]
    norms = [module for module in net.modules() if isinstance(module, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {0.25}
    assert any(isinstance(module, nn.SiLU) for module in net.modules())


def test_parts_of_pretrained_models(cfg: CfgNode, tmp_path: Path) -> None:
    """By a file: yacs compares the types of what it merges with those of the defaults."""
    file = tmp_path / "parts.yaml"
    file.write_text(
        "MODEL:\n  VIT: {QKV_BIAS: qv, LAYER_SCALE_INIT: 0.5, ACT: null, MLP: swiglu, "
        "MLP_NORM: true, PRE_NORM: true, ROPE: half}\n",
        encoding="ascii",
    )
    cfg.merge_from_file(str(file))
    net = build_backbone(cfg)
    assert (net.qkv_bias, net.layer_scale_init, net.act, net.mlp) == ("qv", 0.5, None, "swiglu")
    assert (net.mlp_norm, net.pre_norm, net.rope) == (True, True, "half")
    assert "blocks.0.attn.q_bias" in net.state_dict()


@pytest.mark.parametrize(("value", "meant"), [(None, True), (True, True), (False, False)])
def test_qkv_bias_of_none_is_the_default(cfg: CfgNode, value: bool | None, meant: bool) -> None:
    assert cfg.MODEL.VIT.QKV_BIAS is None
    cfg.MODEL.VIT.QKV_BIAS = value
    assert ("blocks.0.attn.qkv.bias" in build_backbone(cfg).state_dict()) is meant


def test_the_pyramid_stands_on_the_last_map(cfg: CfgNode) -> None:
    cfg.MODEL.BACKBONE.NAME = "build_vit_simple_feature_pyramid_backbone"
    cfg.MODEL.VIT.OUT_BLOCK_INDEXES = (0,)
    cfg.MODEL.SFP.TOP_BLOCK, cfg.MODEL.SFP.NORM = "", ""
    pyramid = build_backbone(cfg)
    assert list(pyramid.output_shape()) == ["p2", "p3", "p4", "p5"]
    assert "simfp_2.0.bias" in pyramid.state_dict()


@pytest.mark.parametrize("size", ["H", "h"])
def test_size(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = get_cfg()
    add_vitdet_config(cfg)
    cfg.MODEL.VIT.SIZE = size
    built: dict[str, Any] = {}
    monkeypatch.setattr(registration, "ViT", lambda **arguments: built.update(arguments))
    registration.build_vit_backbone(cfg, IMAGE)
    assert (built["embed_dim"], built["depth"], built["num_heads"]) == (1280, 32, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"WINDOW_SIZ": 14}, r"MODEL\.VIT: unknown WINDOW_SIZ \(did you mean WINDOW_SIZE\?\)"),
        ({"DEPTH": "12"}, r"MODEL\.VIT\.DEPTH: expected int, got '12' \(str\)"),
        ({"DEPTH": True}, r"MODEL\.VIT\.DEPTH: expected int, got True \(bool\)"),
        ({"QKV_BIAS": 1}, r"MODEL\.VIT\.QKV_BIAS: expected bool or 'qv', got 1 \(int\)"),
        ({"QKV_BIAS": "q"}, r"QKV_BIAS: expected bool or 'qv', got 'q' \(str\)"),
        ({"ACT": "quickgelu"}, r"got 'quickgelu' \(str\) \(did you mean quick_gelu\?\)"),
        ({"MLP_RATIO": None}, r"MODEL\.VIT\.MLP_RATIO: expected float, got None"),
        ({"CROSS_WINDOW": "globl"}, r"'global' or 'conv' .* got 'globl' .*did you mean global\?"),
        ({"CROSS_WINDOW_INDEXES": [1.5]}, r"expected a list of int or None, got \[1\.5\]"),
        ({"WINDOW_BLOCK_INDEXES": "01"}, r"expected a list of int, got '01'"),
        ({"NORM_LAYER": "BN"}, r"NORM_LAYER: expected one of 'LN', 'RMSNorm', got 'BN'"),
        ({"NORM_EPS": "small"}, r"NORM_EPS: expected float, got 'small'"),
        ({"ACT_LAYER": "gelu"}, r"got 'gelu' \(did you mean GELU\?\)"),
        ({"ACT_LAYER": 3}, r"ACT_LAYER: expected str, got 3 \(int\)"),
        ({"SIZE": "XL"}, r"MODEL\.VIT\.SIZE: expected one of 'B', 'H', 'L', 'S', 'TI', got 'XL'"),
        ({"SIZE": "B"}, r"SIZE: B means EMBED_DIM: 768, but EMBED_DIM is 24; leave out"),
    ],
)
def test_wrong_options(cfg: CfgNode, options: dict[str, Any], message: str) -> None:
    cfg.MODEL.VIT.update(options)
    with pytest.raises(RecipeError, match=message):
        build_backbone(cfg)


def test_an_unknown_key_of_a_file_reaches_the_builder(cfg: CfgNode) -> None:
    cfg.merge_from_other_cfg(CfgNode({"MODEL": {"SFP": {"OUT_CHANELS": 8}}}))
    cfg.MODEL.BACKBONE.NAME = "build_vit_simple_feature_pyramid_backbone"
    with pytest.raises(RecipeError, match=r"MODEL\.SFP: .*did you mean OUT_CHANNELS\?"):
        build_backbone(cfg)


def test_wrong_pyramids(cfg: CfgNode) -> None:
    cfg.MODEL.BACKBONE.NAME = "build_vit_simple_feature_pyramid_backbone"
    cfg.MODEL.SFP.TOP_BLOCK = "LastLevelP6P7"
    with pytest.raises(RecipeError, match=r"TOP_BLOCK: expected one of '', 'LastLevelMaxPool'"):
        build_backbone(cfg)

# SPDX-License-Identifier: Apache-2.0
"""``MODEL.PVT``: every argument of every kind is an option, and wrong ones are named."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import build_backbone

from tests.backbones.pyramid_case import TINY
from vitdet_d2.backbones import PVT, MiT, PVTv2, add_vitdet_config, registration
from vitdet_d2.backbones.pvt_options import KINDS
from vitdet_d2.errors import RecipeError


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_vitdet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_pvt_fpn_backbone"
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    return cfg


def tiny(cfg: CfgNode) -> CfgNode:
    for name, value in TINY.items():
        cfg.MODEL.PVT[name.upper()] = value
    return cfg


def test_every_argument_of_every_kind_is_an_option() -> None:
    cfg = get_cfg()
    add_vitdet_config(cfg)
    arguments = {
        name.upper(): parameter.default
        for kind in (PVT, PVTv2, MiT)
        for name, parameter in inspect.signature(kind).parameters.items()
        if name != "in_chans"
    }
    assert set(cfg.MODEL.PVT) == set(arguments) | {"KIND", "SIZE", "TOP_BLOCK", "SQUARE_PAD"}
    for name, value in arguments.items():
        # None: the size or the kind decides.
        assert cfg.MODEL.PVT[name] in (value, None), name
    again = get_cfg()
    add_vitdet_config(again)
    again.merge_from_other_cfg(CfgNode.load_cfg(cfg.dump()))
    assert again.MODEL.PVT == cfg.MODEL.PVT


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("pvt", "large", {"depths": (3, 8, 27, 3)}),
        ("pvt", "", {"depths": (3, 4, 6, 3)}),
        ("pvt_v2", "b0", {"depths": (2, 2, 2, 2), "linear": False}),
        ("pvt_v2", "b2_li", {"depths": (3, 4, 6, 3), "linear": True}),
        ("mit", "b5", {"depths": (3, 6, 40, 3)}),
        ("mit", "", {"embed_dims": (64, 128, 320, 512)}),
    ],
)
def test_kinds_and_sizes(cfg: CfgNode, kind: str, size: str, expected: dict[str, Any]) -> None:
    cfg.MODEL.PVT.KIND, cfg.MODEL.PVT.SIZE = kind, size
    with torch.device("meta"):
        net = registration.build_pvt_backbone(cfg, ShapeSpec(channels=3))
    assert type(net) is KINDS[kind].build
    assert {name: getattr(net, name) for name in expected} == expected
    hidden = net.block1[0].mlp.fc1.out_features / net.embed_dims[0]
    assert hidden == (4 if kind == "mit" else 8)


def test_every_option_arrives(cfg: CfgNode, tmp_path: Path) -> None:
    """By a file: yacs compares the types of what it merges with those of the defaults."""
    file = tmp_path / "pvt.yaml"
    file.write_text(
        "MODEL:\n  PVT: {EMBED_DIMS: [8, 12, 16, 20], DEPTHS: [1, 1, 2, 1],"
        " NUM_HEADS: [1, 2, 2, 5], MLP_RATIOS: [1, 2, 1.5, 2], SR_RATIOS: [4, 2, 2, 1],"
        " QKV_BIAS: false, DROP_PATH_RATE: 0.4, OUT_FEATURES: [res3, res4], FROZEN_STAGES: 1,"
        " USE_ACT_CHECKPOINT: true, PRETRAIN_IMG_SIZE: 64, SQUARE_PAD: 64, TOP_BLOCK: ''}\n",
        encoding="ascii",
    )
    cfg.merge_from_file(str(file))
    fpn = build_backbone(cfg, ShapeSpec(channels=4))
    net = fpn.bottom_up
    assert isinstance(net, PVT)
    assert (net.embed_dims, net.depths) == ((8, 12, 16, 20), (1, 1, 2, 1))
    assert [blocks[0].attn.num_heads for blocks in (net.block1, net.block2)] == [1, 2]
    assert (net.block1[0].attn.sr_ratio, net.block3[0].mlp.fc1.out_features) == (4, 24)
    assert net.block1[0].attn.q.bias is None
    assert net.block3[1].drop_path.drop_prob == pytest.approx(0.3)
    assert (net.frozen_stages, net.use_act_checkpoint) == (1, True)
    assert (net.pos_embed1.shape[1], net.patch_embed1.proj.in_channels) == (256, 4)
    assert list(fpn.output_shape()) == ["p3", "p4"]
    assert fpn.padding_constraints["square_size"] == 64


def test_the_pyramid_of_mask_rcnn(cfg: CfgNode) -> None:
    tiny(cfg).MODEL.PVT.KIND = "mit"
    fpn = build_backbone(cfg)
    assert list(fpn.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert isinstance(fpn.bottom_up, MiT)
    assert fpn(torch.randn(1, 3, 64, 96))["p2"].shape == (1, 8, 16, 24)


def test_retinanet_stands_on_it(cfg: CfgNode) -> None:
    tiny(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "RetinaNet", "cpu"
    cfg.MODEL.PVT.KIND, cfg.MODEL.PVT.LINEAR = "pvt_v2", True
    cfg.MODEL.PVT.TOP_BLOCK = "LastLevelP6P7"
    cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[x, x * 1.26, x * 1.59] for x in (32, 64, 128, 256, 512)]
    model = build_model(cfg).eval()
    assert list(model.backbone.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]
    assert model.backbone.top_block.p6.in_channels == 20
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, 50, 70)}])
    assert result["instances"].image_size == (50, 70)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"DEPTH": [1]}, r"MODEL\.PVT: unknown DEPTH \(did you mean DEPTHS\?\)"),
        ({"KIND": "pvtv2"}, r"KIND: expected one of .*'pvt_v2', got 'pvtv2' \(did you mean pvt_v2"),
        ({"SIZE": "b0"}, r"MODEL\.PVT\.SIZE: expected one of 'large', .*'tiny', got 'b0'"),
        ({"KIND": "mit", "SIZE": "b2_li"}, r"SIZE: expected one of 'b0', .*'b5', got 'b2_li'"),
        ({"SIZE": "tiny", "DEPTHS": [2, 2, 2, 3]}, r"tiny means DEPTHS: .* but DEPTHS is .*3\]"),
        ({"KIND": "pvt_v2", "SIZE": "b2_li", "LINEAR": False}, "b2_li means LINEAR: True, but"),
        ({"LINEAR": True}, r"MODEL\.PVT\.LINEAR: KIND pvt has no such option; leave it at None"),
        ({"KIND": "mit", "PRETRAIN_IMG_SIZE": 224}, "PRETRAIN_IMG_SIZE: KIND mit has no such"),
        ({"DEPTHS": 3}, r"MODEL\.PVT\.DEPTHS: expected a list of int, got 3"),
        ({"QKV_BIAS": 1}, r"MODEL\.PVT\.QKV_BIAS: expected bool, got 1"),
        ({"OUT_FEATURES": ["p2"]}, r"out_features: expected some of res2"),
        ({"TOP_BLOCK": "P6P7"}, r"MODEL\.PVT\.TOP_BLOCK: expected one of .*'LastLevelP6P7'"),
    ],
)
def test_wrong_options(cfg: CfgNode, options: dict[str, Any], message: str) -> None:
    for name, value in options.items():
        cfg.MODEL.PVT[name] = value
    with pytest.raises(RecipeError, match=message), torch.device("meta"):
        build_backbone(cfg)


def test_the_options_must_be_there() -> None:
    with pytest.raises(RecipeError, match=r"MODEL\.PVT: .*add_vitdet_config\(cfg\)"):
        registration.build_pvt_backbone(get_cfg(), ShapeSpec(channels=3))

# SPDX-License-Identifier: Apache-2.0
import logging
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY

from tests.backbones.vit_case import TINY
from vitdet_d2.backbones import registration
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.necks import SimpleFeaturePyramid

NAMES = ["build_vit_backbone", "build_vit_simple_feature_pyramid_backbone"]
VIT_OPTIONS = {name.upper(): value for name, value in TINY.items()}


@pytest.fixture
def registry(monkeypatch):
    """Give an empty registry of Detectron2's class."""
    fresh = type(BACKBONE_REGISTRY)("BACKBONE")
    monkeypatch.setattr(registration, "BACKBONE_REGISTRY", fresh)
    return fresh


def config(**model):
    class Mapping(dict):
        __getattr__ = dict.__getitem__

    return types.SimpleNamespace(MODEL=Mapping(model))


def test_importing_the_backbones_registers_them():
    code = (
        "import vitdet_d2, vitdet_d2.backbones\n"
        "from detectron2.modeling import BACKBONE_REGISTRY\n"
        f"print([BACKBONE_REGISTRY.get(name).__name__ for name in {NAMES}])"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str(NAMES)


def test_registering_twice_is_silent(registry, caplog):
    registration.register_backbones()
    registration.register_backbones()
    for name in NAMES:
        assert registry.get(name) is getattr(registration, name)
    assert not caplog.records


def test_a_taken_name_is_left_alone(registry, caplog):
    def build_vit_backbone(cfg, input_shape):
        raise NotImplementedError

    registry.register(build_vit_backbone)
    with caplog.at_level(logging.WARNING):
        registration.register_backbones()
    assert registry.get(NAMES[0]) is build_vit_backbone
    assert registry.get(NAMES[1]) is registration.build_vit_simple_feature_pyramid_backbone
    (record,) = caplog.records
    assert "already has 'build_vit_backbone'" in record.getMessage()
    assert "keeping theirs" in record.getMessage()


def test_builders_read_the_options():
    net = registration.build_vit_backbone(config(VIT=VIT_OPTIONS), ShapeSpec(channels=5))
    assert isinstance(net, ViT)
    assert len(net.blocks) == 3
    assert net(torch.zeros(1, 5, 32, 32))["last_feat"].shape == (1, 24, 2, 2)
    pyramid = registration.build_vit_simple_feature_pyramid_backbone(
        config(
            VIT={**VIT_OPTIONS, "OUT_FEATURE": "map"}, SFP={"OUT_CHANNELS": 8, "SQUARE_PAD": 64}
        ),
        ShapeSpec(channels=3),
    )
    assert isinstance(pyramid, SimpleFeaturePyramid)
    assert list(pyramid.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    assert pyramid.output_shape()["p6"].channels == 8
    assert pyramid.padding_constraints["square_size"] == 64


def test_pyramid_options_may_be_left_out():
    pyramid = registration.build_vit_simple_feature_pyramid_backbone(
        config(VIT=VIT_OPTIONS), ShapeSpec(channels=3)
    )
    assert pyramid.output_shape()["p2"].channels == 256


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"VIT": {"DEPHT": 3}},
            r"MODEL.VIT: unknown DEPHT \(did you mean DEPTH\?\); expected",
        ),
        ({"VIT": {"IN_CHANS": 3}}, "MODEL.VIT: unknown IN_CHANS"),
        ({"VIT": VIT_OPTIONS, "SFP": {"NET": 1}}, "MODEL.SFP: unknown NET"),
        ({}, r"MODEL\.VIT: expected the options .*add_vitdet_config\(cfg\) after get_cfg"),
    ],
)
def test_unknown_and_missing_options_raise(model, message):
    with pytest.raises(ValueError, match=message):
        registration.build_vit_simple_feature_pyramid_backbone(
            config(**model), ShapeSpec(channels=3)
        )

# SPDX-License-Identifier: Apache-2.0
"""Families of timm's models: those for any size, those for one, and those that are refused.

Shapes are computed on the meta device; numbers are compared in test_timm_backbone.py.
"""

from __future__ import annotations

import pytest
import torch

from vitdet_d2.backbones import TimmBackbone
from vitdet_d2.errors import RecipeError

# One small model of each; strides of the maps that it gives by default.
ANY_SIZE = {
    "swin_tiny_patch4_window7_224": (4, 8, 16, 32),
    "swinv2_tiny_window8_256": (4, 8, 16, 32),
    "mvitv2_tiny": (4, 8, 16, 32),
    "convnext_atto": (4, 8, 16, 32),
    "sam2_hiera_tiny": (4, 8, 16, 32),
    "resnet18": (4, 8, 16, 32),
    "regnety_002": (4, 8, 16, 32),
    "efficientnet_b0": (4, 8, 16, 32),
    "pvt_v2_b0": (4, 8, 16, 32),
    "davit_tiny": (4, 8, 16, 32),
    "mambaout_femto": (4, 8, 16, 32),
    "efficientvit_b0": (4, 8, 16, 32),
}
ONE_SIZE = {
    "hiera_tiny_224": (4, 8, 16, 32),
    "maxvit_pico_rw_256": (4, 8, 16, 32),
    "coatnet_nano_rw_224": (4, 8, 16, 32),
    "gcvit_xxtiny": (4, 8, 16, 32),
    "nest_tiny": (4, 8, 16),
    "visformer_tiny": (8, 16, 32),
}
PLAIN = ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "beit_base_patch16_224"]


def assert_shapes(net: TimmBackbone, hw: tuple[int, int], strides: tuple[int, ...]) -> None:
    shapes = net.output_shape()
    assert tuple(shape.stride for shape in shapes.values()) == strides
    maps = net(torch.zeros(2, 3, *hw))
    for name, shape in shapes.items():
        expected = (2, shape.channels, hw[0] // (shape.stride or 0), hw[1] // (shape.stride or 0))
        assert tuple(maps[name].shape) == expected, (name, hw)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_models_for_images_of_any_size(name: str) -> None:
    with torch.device("meta"):
        net = TimmBackbone(name).eval()
        for hw in ((224, 224), (160, 288)):
            assert_shapes(net, hw, ANY_SIZE[name])
    assert net.padding_constraints == {}


@pytest.mark.parametrize("name", ONE_SIZE)
def test_models_for_images_of_one_size(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"'{name}' takes images of one fixed size.*img_size="):
        TimmBackbone(name)
    with torch.device("meta"):
        net = TimmBackbone(name, img_size=448).eval()
        assert_shapes(net, (448, 448), ONE_SIZE[name])
        with pytest.raises(RecipeError, match=rf"'{name}' is built for images of 448x448 alone"):
            net(torch.zeros(1, 3, 224, 448))
    assert net.padding_constraints == {"square_size": 448}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_models_are_pointed_to_our_vit(name: str) -> None:
    with pytest.raises(RecipeError, match=rf"'{name}' is plain: .* take vitdet_d2.backbones.ViT"):
        TimmBackbone(name)

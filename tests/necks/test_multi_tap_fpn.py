# SPDX-License-Identifier: Apache-2.0
"""The two necks with a top-down FPN, against their formula in plain functions."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from tests.backbones.vit_case import TINY, pixels, run
from tests.closed_form import fill_
from tests.necks.neck_cases import check_shapes, make_neck
from vitdet_d2.backbones import ViT
from vitdet_d2.errors import RecipeError
from vitdet_d2.necks import LastMapFPN, MultiTapFPN
from vitdet_d2.solver import get_vit_lr_decay_rate

FPN_NECKS = ["multi_tap", "last_map"]
SOURCES = {
    "multi_tap": ["stage1", "stage1", "stage2", "stage3"],
    "last_map": ["last_feat"] * 4,
}


class Wide(Backbone):
    """A ViT of 32 channels, which group norm wants."""

    def __init__(self, stages):
        super().__init__()
        self.vit = ViT(**{**TINY, "embed_dim": 32, "num_heads": 2}, out_block_indexes=stages)

    def output_shape(self):
        return self.vit.output_shape()

    def forward(self, x):
        return self.vit(x)


def slow_norm(x, norm, weights, prefix):
    if norm == "":
        return x
    weight, bias = weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]
    if norm == "GN":
        return F.group_norm(x, 32, weight, bias)
    x = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), weight, bias, 1e-6)
    return x.permute(0, 3, 1, 2)


def slow_fpn(maps, sources, weights, norm):
    """Coarse to fine, from the weights alone."""

    def deconvolve(x, prefix):
        return F.conv_transpose2d(x, weights[f"{prefix}.weight"], weights[f"{prefix}.bias"], 2)

    def convolve(x, prefix, padding):
        bias = weights.get(f"{prefix}.bias")
        x = F.conv2d(x, weights[f"{prefix}.weight"], bias, padding=padding)
        return slow_norm(x, norm, weights, f"{prefix}.norm")

    at4, at8, at16, at32 = (maps[name] for name in sources)
    at4 = slow_norm(deconvolve(at4, "bottom_up.c2.0"), norm, weights, "bottom_up.c2.1")
    at4 = deconvolve(F.gelu(at4), "bottom_up.c2.3")
    at8 = deconvolve(at8, "bottom_up.c3.0")
    at32 = F.max_pool2d(at32, 2)
    above, levels = None, {}
    for level, x in zip((5, 4, 3, 2), (at32, at16, at8, at4), strict=True):
        x = convolve(x, f"fpn_lateral{level}", 0)
        if above is not None:
            x = x + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
        above = x
        levels[f"p{level}"] = convolve(x, f"fpn_output{level}", 1)
    levels["p6"] = levels["p5"][:, :, ::2, ::2]
    return levels


def check_against_formula(name, norm):
    arguments = {
        "out_channels": 32,
        "top_block": LastLevelMaxPool(),
        "norm": norm,
        "resampling_norm": norm,
    }
    if name == "multi_tap":
        neck = MultiTapFPN(Wide((0, 1, 2)), SOURCES[name], **arguments)
    else:
        neck = LastMapFPN(Wide(()), "last_feat", **arguments)
    fill_(neck.double())
    x = pixels((64, 96))
    weights = dict(neck.named_parameters())
    actual, expected = neck(x), slow_fpn(neck.net(x), SOURCES[name], weights, norm)
    assert list(actual) == ["p2", "p3", "p4", "p5", "p6"]
    for level, value in expected.items():
        torch.testing.assert_close(actual[level], value, msg=level)


@pytest.mark.parametrize("norm", ["LN", "GN", ""])
@pytest.mark.parametrize("name", FPN_NECKS)
def test_outputs_match_the_formula(name, norm):
    check_against_formula(name, norm)


@pytest.mark.parametrize("name", FPN_NECKS)
def test_everything_learns(name):
    _, gradients = run(make_neck(name), pixels((64, 96)))
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert not [key for key, gradient in gradients.items() if not gradient.any()]


@pytest.mark.parametrize("name", FPN_NECKS)
def test_the_network_is_reached_as_in_the_other_necks(name):
    neck = make_neck(name)
    assert isinstance(neck, FPN)
    assert neck.net is neck.bottom_up.net
    assert not [key for key in neck.state_dict() if key.startswith("net.")]


@pytest.mark.parametrize("name", FPN_NECKS)
def test_layer_decay_reaches_the_blocks_alone(name):
    factors = {
        key: get_vit_lr_decay_rate(f"backbone.{key}", 0.5, 3)
        for key, _ in make_neck(name).named_parameters()
    }
    inside = {k: v for k, v in factors.items() if k.startswith("bottom_up.net.")}
    assert {v for k, v in factors.items() if k not in inside} == {1.0}
    assert inside["bottom_up.net.pos_embed"] == 0.5**4
    assert inside["bottom_up.net.blocks.2.norm1.weight"] == 0.5
    assert max(inside.values()) == 0.5


@pytest.mark.parametrize("name", FPN_NECKS)
def test_necks_build_on_the_meta_device(name):
    with torch.device("meta"):
        neck = make_neck(name)
        check_shapes(neck, torch.zeros(1, 3, 64, 96))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: MultiTapFPN(nn.Identity(), ["a"], 8, (1.0,)), TypeError, "got Identity"),
        (lambda: make_neck("last_map", in_feature="feat"), RecipeError, r"maps \(last_feat\), got"),
        (
            lambda: make_neck("multi_tap", in_features=["stage1", "stage2"]),
            RecipeError,
            r"one map for each of scale_factors=\[4.0, 2.0, 1.0, 0.5\], got \['stage1', 'stage2'\]",
        ),
        (
            lambda: make_neck("multi_tap", in_features=["stage1"] * 3 + ["stage4"]),
            RecipeError,
            "got 'stage4'; a ViT returns more with out_block_indexes",
        ),
        (
            lambda: make_neck("last_map", scale_factors=(4.0, 1.0)),
            RecipeError,
            "each to be half of the one before",
        ),
        (
            lambda: make_neck("last_map", scale_factors=(8.0, 4.0)),
            RecipeError,
            "expected 4, 2, 1 or 0.5, got 8.0",
        ),
    ],
)
def test_bad_arguments_raise(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize("name", ["multi_tap", "last_map"])
@pytest.mark.parametrize("hw", [(48, 64), (64, 80)])
def test_images_that_were_not_padded_are_named(name, hw):
    """By themselves the maps of different levels would not fit each other."""
    with pytest.raises(ValueError, match=f"multiples of 32, got {hw[0]} x {hw[1]}; pad them"):
        make_neck(name)(torch.zeros(1, 3, *hw))

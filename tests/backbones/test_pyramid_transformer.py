# SPDX-License-Identifier: Apache-2.0
"""PVT v1, PVT v2 and MiT: what all of them have."""

import pytest
import torch

from tests.backbones.pyramid_case import NAMES, TINY, images, make
from vitdet_d2.backbones import PVT, MiT, PVTv2
from vitdet_d2.errors import RecipeError

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_stated_channels_and_strides(name):
    net = make(name)
    maps = net(images(64, 96))
    shapes = net.output_shape()
    assert list(maps) == list(shapes) == list(STRIDES)
    for key, value in maps.items():
        assert shapes[key].stride == STRIDES[key]
        expected = (2, shapes[key].channels, 64 // STRIDES[key], 96 // STRIDES[key])
        assert tuple(value.shape) == expected
    assert net.size_divisibility == 32


@pytest.mark.parametrize("name", NAMES)
def test_some_maps_alone(name):
    every, some = make(name), make(name, out_features=("res3", "res4"))
    result = some.load_state_dict(every.state_dict(), strict=False)
    assert not result.missing_keys
    assert {key.split(".")[0][-1] for key in result.unexpected_keys} == {"4"}
    expected, maps = every(images(64, 64)), some(images(64, 64))
    assert list(maps) == ["res3", "res4"]
    for key, value in maps.items():
        assert torch.equal(value, expected[key])
    sum(m.sum() for m in maps.values()).backward()
    assert all(p.grad is not None for p in some.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_frozen_stages_stay_in_evaluation_and_have_no_gradients(name):
    net = make(name, frozen_stages=2, drop_path_rate=0.5).train()
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    expected = {n for n, _ in net.named_parameters() if n.split(".")[0][-1] in "12"}
    assert frozen == expected
    assert not net.block2[0].training
    assert net.block3[0].training
    x = images(64, 64)
    first, second = net(x), net(x)
    assert torch.equal(first["res3"], second["res3"])
    assert not torch.equal(first["res5"], second["res5"])
    sum(m.sum() for m in first.values()).backward()
    trained = {n for n, p in net.named_parameters() if p.grad is not None}
    assert trained.isdisjoint(frozen)


@pytest.mark.parametrize("name", NAMES)
def test_drop_path_grows_linearly_over_all_blocks(name):
    net = make(name, drop_path_rate=0.5)
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0)
        for stage in range(1, 5)
        for block in getattr(net, f"block{stage}")
    ]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("name", NAMES)
def test_activation_checkpointing_changes_no_gradient(name):
    gradients = []
    for recompute in (False, True, "selective"):
        net = make(name, use_act_checkpoint=recompute, drop_path_rate=0.5).train()
        torch.manual_seed(0)
        sum(m.square().sum() for m in net(images(64, 64)).values()).backward()
        gradients.append([p.grad for p in net.parameters()])
    for plain, full, selective in zip(*gradients, strict=True):
        assert torch.equal(plain, full)
        assert torch.equal(plain, selective)


@pytest.mark.parametrize("kind", [PVT, PVTv2, MiT])
def test_first_weights_are_those_of_the_released_code(kind):
    torch.manual_seed(0)
    net = kind(**{**TINY, "embed_dims": (64, 64, 64, 80)})
    weights = {name: p.detach() for name, p in net.named_parameters()}
    assert weights["block1.0.attn.kv.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    # Version 1 leaves convolutions to torch, uniform in 1 / sqrt(fan_in); version 2 counts outputs.
    fan = 64 * 2 * 2
    deviation = (3 * fan) ** -0.5 if kind is PVT else (2 / fan) ** 0.5
    assert weights["block3.0.attn.sr.weight"].std().item() == pytest.approx(deviation, rel=0.05)
    if kind is PVT:
        assert weights["pos_embed1"].std().item() == pytest.approx(0.02, rel=0.05)
    else:
        depthwise = weights["block1.0.mlp.dwconv.dwconv.weight"]
        assert depthwise.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    biases = [p for name, p in weights.items() if name.endswith(("fc1.bias", "attn.norm.bias"))]
    assert not any(p.any() for p in biases)


@pytest.mark.parametrize("kind", [PVT, PVTv2, MiT])
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"depths": (2, 2, 2)}, r"depths: expected 4 positive numbers.*\[2, 2, 2\]"),
        ({"sr_ratios": (8, 4, 2, 0)}, "sr_ratios: expected 4 positive numbers"),
        ({"num_heads": (3, 2, 2, 5)}, "embed_dims: expected a multiple of num_heads=3 for stage 1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate: expected 0 <= drop_path_rate < 1, got 1.0"),
        ({"out_features": ("res3", "res2")}, "out_features: expected some of res2.*in this order"),
        ({"out_features": ("res6",)}, r"got \['res6'\]"),
        ({"out_features": ()}, "out_features"),
        ({"out_features": "res2"}, "got res2"),
        ({"frozen_stages": 5}, "frozen_stages: expected 0 to 4"),
        ({"frozen_stages": 3, "out_features": ("res3",)}, "frozen_stages: expected 0 to 2"),
    ],
)
def test_wrong_arguments_are_named(kind, wrong, match):
    with pytest.raises(RecipeError, match=match):
        kind(**{**TINY, **wrong})


@pytest.mark.parametrize("size", [0, 16, 100])
def test_pretraining_size_that_does_not_divide(size):
    with pytest.raises(RecipeError, match=f"pretrain_img_size: expected a multiple of 32.*{size}"):
        PVT(**TINY, pretrain_img_size=size)


@pytest.mark.parametrize("name", ["pvt", "pvt_v2", "mit"])
def test_image_too_small_for_the_reduction(name):
    with pytest.raises(ValueError, match="at least 8 x 8 tokens for sr_ratio=8, got 7 x 8"):
        make(name)(images(28, 32))

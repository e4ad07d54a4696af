# SPDX-License-Identifier: Apache-2.0
"""Parts that some pre-trained ViTs have, as options of the backbone."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from tests.backbones.vit_case import TINY, pixels
from tests.closed_form import fill_
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.absolute_position import get_abs_pos

# Heads of 8 channels, which rotary positions can divide by 4.
PLAIN = {**TINY, "use_rel_pos": False}
NEW_KEYS = {
    "layer_scale": ({"layer_scale_init": 0.1}, {"blocks.N.ls1.gamma", "blocks.N.ls2.gamma"}, set()),
    "qv": (
        {"qkv_bias": "qv"},
        {"blocks.N.attn.q_bias", "blocks.N.attn.v_bias"},
        {"blocks.N.attn.qkv.bias"},
    ),
    "act": ({"act": "quick_gelu"}, set(), set()),
    "swiglu": (
        {"mlp": "swiglu"},
        {f"blocks.N.mlp.{w}.{p}" for w in ("w1", "w2", "w3") for p in ("weight", "bias")},
        {f"blocks.N.mlp.{fc}.{p}" for fc in ("fc1", "fc2") for p in ("weight", "bias")},
    ),
    "pre_norm": ({"pre_norm": True}, {"norm_pre.weight", "norm_pre.bias"}, set()),
    "half": ({"rope": "half"}, set(), set()),
    "interleaved": ({"rope": "interleaved"}, set(), set()),
}


def keys(net: nn.Module) -> set[str]:
    return {key.replace("blocks.1.", "blocks.N.") for key in net.state_dict()}


@pytest.mark.parametrize("name", NEW_KEYS)
def test_keys(name: str) -> None:
    options, added, removed = NEW_KEYS[name]
    plain, net = ViT(**PLAIN), ViT(**PLAIN, **options)
    assert keys(net) - keys(plain) >= added
    assert keys(plain) - keys(net) >= removed
    assert {k for k in keys(plain) ^ keys(net) if "blocks.N" in k or "blocks" not in k} == (
        added | removed
    )
    for option, value in options.items():
        assert getattr(net, option) == value
        assert getattr(plain, option) != value
    out = net(pixels((64, 96), torch.float32))["last_feat"]
    assert out.shape == (2, 24, 4, 6)


def test_sub_norm_keys() -> None:
    added = keys(ViT(**PLAIN, mlp="swiglu", mlp_norm=True)) - keys(ViT(**PLAIN, mlp="swiglu"))
    ends = {"mlp.ffn_ln.weight", "mlp.ffn_ln.bias"}
    assert {key for key in added if "N" in key} == {f"blocks.N.{end}" for end in ends}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qkv_bias": "q"}, r"qkv_bias: expected one of True, False, 'qv', got 'q'"),
        ({"qkv_bias": 1}, r"qkv_bias: expected one of True, False, 'qv', got 1"),
        ({"act": "quick_glu"}, r"got 'quick_glu' \(did you mean quick_gelu\?\)"),
        ({"mlp": "glu"}, r"mlp: expected one of 'gelu', 'swiglu', got 'glu'"),
        ({"rope": True}, r"rope: expected one of None, 'half', 'interleaved', got True"),
        ({"layer_scale_init": "0.1"}, r"layer_scale_init: expected a number .* got '0\.1'"),
        ({"layer_scale_init": float("nan")}, r"layer_scale_init: expected a number .* got nan"),
        ({"layer_scale_init": True}, r"layer_scale_init: expected a number .* got True"),
        ({"mlp_norm": True}, r"mlp_norm: expected mlp='swiglu' with it, got mlp='gelu'"),
        ({"act": "gelu", "act_layer": nn.ReLU}, r"act='gelu' and act_layer are both set"),
        ({"rope": "half", "num_heads": 4}, r"multiple of 4 \* num_heads=16 .*, got 24"),
    ],
)
def test_contradictions(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ViT(**{**PLAIN, **options})


def test_an_activation_without_effect_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ViT(**PLAIN, mlp="swiglu", act="quick_gelu")
    assert "act='quick_gelu' has no effect" in caplog.text


def test_the_norm_stands_between_positions_and_blocks() -> None:
    net = fill_(ViT(**PLAIN, pre_norm=True).double())
    images = pixels((64, 96))
    x = net.patch_embed(images) + get_abs_pos(net.pos_embed, True, (4, 6))
    x = nn.functional.layer_norm(x, (24,), net.norm_pre.weight, net.norm_pre.bias, 1e-5)
    for block in net.blocks:
        x = block(x)
    assert torch.equal(net(images)["last_feat"], x.permute(0, 3, 1, 2))


@pytest.mark.parametrize("rope", ["half", "interleaved"])
def test_rotary_positions_alone_tell_places(rope: str) -> None:
    """Without any other position a transposed image gives another map than the transposed one."""
    options = {**PLAIN, "use_abs_pos": False}
    images = pixels((64, 64))
    told = {}
    for name in (None, rope):
        net = fill_(ViT(**options, rope=name).double())
        assert "pos_embed" not in net.state_dict()
        with torch.no_grad():
            net.patch_embed.proj.weight.copy_(
                (net.patch_embed.proj.weight + net.patch_embed.proj.weight.mT) / 2
            )
            out, turned = (net(x)["last_feat"] for x in (images, images.mT))
        told[name] = (out - turned.mT).abs().max()
    assert told[None] < 1e-12
    assert told[rope] > 1e-3


def test_all_parts_together_train_on_any_image() -> None:
    net = ViT(
        **{**PLAIN, "use_abs_pos": False, "mlp_ratio": 64 / 24},
        layer_scale_init=0.1,
        qkv_bias="qv",
        mlp="swiglu",
        mlp_norm=True,
        pre_norm=True,
        rope="half",
        cross_window="shifted",
        use_act_checkpoint=True,
    )
    out = net(pixels((80, 112), torch.float32))["last_feat"]
    assert out.shape == (2, 24, 5, 7)
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert net.blocks[0].mlp.w1.out_features == 64

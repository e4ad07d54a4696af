# SPDX-License-Identifier: Apache-2.0
"""LayerScale, gated perceptrons, activations and biases of query and value."""

from __future__ import annotations

import copy

import pytest
import timm.layers
import torch
from torch import nn
from transformers.activations import ACT2FN

from tests.closed_form import fill_, tensor
from vitdet_d2.layers.activation import ACTIVATIONS
from vitdet_d2.layers.attention import Attention
from vitdet_d2.layers.block import Block
from vitdet_d2.layers.layer_scale import LayerScale
from vitdet_d2.layers.mlp import hidden_width
from vitdet_d2.layers.norm import layer_norm
from vitdet_d2.layers.swiglu import SwiGLU


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("gelu", "gelu"), ("quick_gelu", "quick_gelu"), ("gelu_tanh", "gelu_pytorch_tanh")],
)
def test_activations_match_transformers(ours: str, theirs: str) -> None:
    x = torch.linspace(-6, 6, 400, dtype=torch.float64)
    out = ACTIVATIONS[ours]()(x)
    torch.testing.assert_close(out, ACT2FN[theirs](x))
    for other in ACTIVATIONS.keys() - {ours}:
        assert (ACTIVATIONS[other]()(x) - out).abs().max() > 1e-4


@pytest.mark.parametrize("with_norm", [False, True])
def test_swiglu_matches_timm(with_norm: bool) -> None:
    # Both norms of torch's default eps, 1e-5, seen in small hidden values.
    theirs = timm.layers.SwiGLU(8, 12, norm_layer=nn.LayerNorm if with_norm else None).double()
    ours = SwiGLU(8, 12, nn.LayerNorm if with_norm else None).double()
    fill_(ours)
    names = {"w1": "fc1_g", "w2": "fc1_x", "w3": "fc2", "ffn_ln": "norm"}
    theirs.load_state_dict(
        {f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in ours.state_dict().items()}
    )
    x = tensor("x", (2, 3, 4, 8))
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("dim", "hidden"), [(1536, 4096), (768, 2048), (1024, 2730), (192, 512)])
def test_hidden_width_survives_a_quotient(dim: int, hidden: int) -> None:
    assert hidden_width(dim, hidden / dim) == hidden
    assert hidden_width(dim, float(torch.tensor(hidden / dim))) == hidden


def test_hidden_width_survives_every_quotient() -> None:
    floored = [d for d in range(64, 2049) if int(d * ((d * 8 // 3) / d)) != d * 8 // 3]
    assert floored, "else nothing is shown"
    assert all(hidden_width(d, (d * 8 // 3) / d) == d * 8 // 3 for d in range(64, 2049))


@pytest.mark.parametrize(("dim", "ratio", "hidden"), [(90, 2.55, 229), (3, 2.5, 7), (24, 4.0, 96)])
def test_hidden_width_is_rounded_down(dim: int, ratio: float, hidden: int) -> None:
    assert hidden_width(dim, ratio) == int(dim * ratio) == hidden


def test_layer_scale() -> None:
    scale = LayerScale(3, 0.25)
    assert torch.equal(scale(torch.ones(2, 3)), torch.full((2, 3), 0.25))
    with torch.no_grad():
        scale.gamma.copy_(torch.tensor([1.0, 2.0, -3.0]))
    assert torch.equal(scale(torch.ones(2, 3))[1], torch.tensor([1.0, 2.0, -3.0]))


def test_layer_scale_folds_into_the_last_layers() -> None:
    scaled = fill_(Block(8, 2, layer_scale_init=0.5, window_size=2).double())
    folded = Block(8, 2, window_size=2).double()
    state = scaled.state_dict()
    for gamma, layer in (("ls1.gamma", "attn.proj"), ("ls2.gamma", "mlp.fc2")):
        factor = state.pop(gamma)
        state[f"{layer}.weight"] = factor[:, None] * state[f"{layer}.weight"]
        state[f"{layer}.bias"] = factor * state[f"{layer}.bias"]
    x = tensor("x", (2, 3, 5, 8))
    before = folded.load_state_dict(state)
    assert not before.missing_keys
    torch.testing.assert_close(folded(x), scaled(x))
    scaled.ls1.gamma.data.mul_(2)
    assert not torch.allclose(folded(x), scaled(x))


@pytest.mark.parametrize("window_size", [0, 3])
def test_biases_of_query_and_value_alone(window_size: int) -> None:
    """As one bias with a zero part, also in the padding of windows, to the bit."""
    two = fill_(Attention(8, 2, "qv", window_size=window_size))
    one = Attention(8, 2, window_size=window_size)
    state = copy.deepcopy(two.state_dict())
    q_bias, v_bias = state.pop("q_bias"), state.pop("v_bias")
    one.load_state_dict({**state, "qkv.bias": torch.cat([q_bias, torch.zeros(8), v_bias])})
    x = tensor("x", (2, 4, 5, 8)).float()
    assert torch.equal(two(x), one(x))
    with torch.no_grad():
        one.qkv.bias[8:16] = 1.0
    # A key's bias adds the same to all logits of a query.
    torch.testing.assert_close(two(x), one(x), atol=1e-5, rtol=0)
    two(x).sum().backward()
    assert two.q_bias.grad is not None
    assert two.v_bias.grad.abs().min() > 0


def test_a_block_of_all_parts_matches_timm() -> None:
    """EVA-02's block: rotary positions aside, which have tests of their own."""
    theirs = timm.models.eva.EvaBlock(
        dim=16,
        num_heads=2,
        mlp_ratio=1.5,
        swiglu_mlp=True,
        scale_mlp=True,
        qkv_fused=False,
        init_values=0.1,
        norm_layer=layer_norm(1e-6),
    )
    ours = Block(
        16,
        2,
        mlp_ratio=1.5,
        qkv_bias="qv",
        norm_layer=layer_norm(1e-6),
        layer_scale_init=0.1,
        mlp="swiglu",
        mlp_norm=True,
    )
    fill_(ours)
    state = {}
    renamed = {"w1": "fc1_g", "w2": "fc1_x", "w3": "fc2", "ffn_ln": "norm", "ls1.gamma": "gamma_1"}
    renamed.update({"ls2.gamma": "gamma_2", "q_bias": "q_proj.bias", "v_bias": "v_proj.bias"})
    for key, value in ours.state_dict().items():
        if key == "attn.qkv.weight":
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                state[f"attn.{part}_proj.weight"] = rows
            continue
        for old, new in renamed.items():
            key = key.replace(old, new)
        state[key] = value
    theirs.load_state_dict(state)
    x = tensor("x", (2, 4, 5, 16)).float()
    expected = theirs.eval()(x.flatten(1, 2)).unflatten(1, (4, 5))
    torch.testing.assert_close(ours.eval()(x), expected, atol=1e-5, rtol=0)

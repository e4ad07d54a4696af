# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F

from tests.closed_form import fill_, tensor
from vitdet_d2.analysis.counter import WorkCounter
from vitdet_d2.layers.attention import Attention
from vitdet_d2.layers.spatial_reduction_attention import (
    LinearSpatialReductionAttention,
    SpatialReductionAttention,
)

DIM, HEADS = 6, 2


def slow_reduced(layer, x):
    """Return the tokens ``(h, w, C)`` that answer in one map, each from a sum over a patch."""
    H, W, C = x.shape
    R = layer.sr_ratio
    rows = []
    for i in range(H // R):
        row = []
        for j in range(W // R):
            total = layer.sr.bias
            for y in range(R):
                for z in range(R):
                    total = total + layer.sr.weight[:, :, y, z] @ x[i * R + y, j * R + z]
            row.append(F.layer_norm(total, (C,), layer.norm.weight, layer.norm.bias, 1e-5))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def slow_pooled(layer, x):
    """Return the tokens ``(7, 7, C)``: means of cells that may overlap, then a linear map."""
    H, W, C = x.shape
    weight = layer.sr.weight[:, :, 0, 0]
    rows = []
    for i in range(7):
        top, bottom = i * H // 7, -(-(i + 1) * H // 7)
        row = []
        for j in range(7):
            left, right = j * W // 7, -(-(j + 1) * W // 7)
            cell = [x[y, z] for y in range(top, bottom) for z in range(left, right)]
            value = weight @ (sum(cell) / len(cell)) + layer.sr.bias
            value = F.layer_norm(value, (C,), layer.norm.weight, layer.norm.bias, 1e-5)
            row.append(value * 0.5 * (1 + torch.erf(value / 2**0.5)))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def slow_attention(layer, x, reduced):
    """One query and one head at a time."""
    C, size = x.shape[-1], x.shape[-1] // layer.num_heads
    tokens = reduced.reshape(-1, C)
    q_bias, kv_bias = (b if b is not None else 0.0 for b in (layer.q.bias, layer.kv.bias))
    keys, values = (torch.stack([layer.kv.weight @ t + kv_bias for t in tokens])).chunk(2, dim=1)
    out = []
    for t in x.reshape(-1, C):
        q = layer.q.weight @ t + q_bias
        heads = []
        for h in range(layer.num_heads):
            part = slice(h * size, (h + 1) * size)
            weights = (keys[:, part] @ q[part] / size**0.5).exp()
            heads.append(weights / weights.sum() @ values[:, part])
        out.append(layer.proj.weight @ torch.cat(heads) + layer.proj.bias)
    return torch.stack(out).reshape(x.shape)


def slow(layer, x):
    maps = []
    for one in x:
        if isinstance(layer, LinearSpatialReductionAttention):
            reduced = slow_pooled(layer, one)
        else:
            reduced = one if layer.sr_ratio == 1 else slow_reduced(layer, one)
        maps.append(slow_attention(layer, one, reduced))
    return torch.stack(maps)


def outputs_and_gradients(function, layer, x):
    x = x.clone().requires_grad_()
    out = function(x)
    wanted = [x, *layer.parameters()]
    cotangent = tensor("cotangent", tuple(out.shape)).to(out)
    return [out, *torch.autograd.grad((out * cotangent).sum(), wanted)]


def check_against_loops(layer, hw):
    fill_(layer.double())
    x = tensor("x", (2, *hw, DIM))
    expected = outputs_and_gradients(lambda y: slow(layer, y), layer, x)
    for actual, value in zip(outputs_and_gradients(layer, layer, x), expected, strict=True):
        torch.testing.assert_close(actual, value)


# The last rows and columns of 5 x 4 belong to no patch of 3 x 3.
@pytest.mark.parametrize("hw", [(6, 6), (5, 4)])
@pytest.mark.parametrize("sr_ratio", [1, 2, 3])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_attention_matches_loops_with_gradients(sr_ratio, hw, qkv_bias):
    check_against_loops(SpatialReductionAttention(DIM, HEADS, qkv_bias, sr_ratio), hw)


@pytest.mark.parametrize("hw", [(9, 8), (7, 7), (3, 5)])
def test_linear_attention_matches_loops_with_gradients(hw):
    check_against_loops(LinearSpatialReductionAttention(DIM, HEADS), hw)


def test_ratio_of_one_is_plain_attention():
    layer = fill_(SpatialReductionAttention(DIM, HEADS).double())
    plain = Attention(DIM, HEADS).double()
    plain.load_state_dict(
        {
            "qkv.weight": torch.cat([layer.q.weight, layer.kv.weight]),
            "qkv.bias": torch.cat([layer.q.bias, layer.kv.bias]),
            "proj.weight": layer.proj.weight,
            "proj.bias": layer.proj.bias,
        }
    )
    x = tensor("x", (2, 5, 7, DIM))
    torch.testing.assert_close(layer(x), plain(x))
    (with_reduction,) = outputs_and_gradients(layer, layer, x)[1:2]
    (without,) = outputs_and_gradients(plain, plain, x)[1:2]
    torch.testing.assert_close(with_reduction, without)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_to_single(dtype):
    for layer in (
        SpatialReductionAttention(DIM, HEADS, sr_ratio=2),
        LinearSpatialReductionAttention(DIM, HEADS),
    ):
        fill_(layer)
        x = tensor("x", (1, 8, 8, DIM)).float()
        with torch.autocast("cpu", dtype=dtype):
            actual = layer(x)
        assert actual.dtype is dtype
        # bf16 keeps 8 bits: errors of 2^-9 of values of order 1, a few times.
        torch.testing.assert_close(actual.float(), layer(x), atol=2e-2, rtol=2e-2)


def products(layer, side, dim=64):
    """Return (multiply-adds of attention itself, those of the whole layer) on a square map."""
    counter = WorkCounter()
    with counter.counting(layer), torch.no_grad():
        layer(torch.zeros(1, side, side, dim))
    flops = sum(work.flops for work in counter.parts.values())
    tokens = side * side
    reduced = layer.reduce(torch.zeros(1, side, side, dim)).shape[1:3].numel()
    linear = 2 * tokens * dim * dim + 2 * reduced * dim * dim  # q and proj, k and v
    if hasattr(layer, "sr"):
        linear += reduced * layer.sr.weight.numel()
    return flops / 2 - linear, flops / 2


def test_cost_falls_with_the_square_of_the_ratio():
    side, dim = 32, 64
    costs = {
        ratio: products(SpatialReductionAttention(dim, 2, sr_ratio=ratio), side)[0]
        for ratio in (1, 2, 4, 8)
    }
    assert costs[1] == 2 * (side * side) ** 2 * dim  # q k^T and the weighted sum
    assert all(cost * ratio**2 == costs[1] for ratio, cost in costs.items())


def test_cost_grows_with_the_square_of_the_pixels_or_linearly():
    small, large = (products(SpatialReductionAttention(64, 2, sr_ratio=4), n)[0] for n in (32, 64))
    assert large == 16 * small
    small, large = (products(LinearSpatialReductionAttention(64, 2), n)[0] for n in (32, 64))
    assert small == 2 * 32 * 32 * 49 * 64
    assert large == 4 * small


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dim": 7}, "dim: expected a multiple of num_heads=2, got 7"),
        ({"dim": 8, "sr_ratio": 0}, "sr_ratio: expected at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        SpatialReductionAttention(num_heads=2, **arguments)


def test_map_smaller_than_the_reduction():
    layer = SpatialReductionAttention(DIM, HEADS, sr_ratio=4)
    with pytest.raises(ValueError, match="at least 4 x 4 tokens for sr_ratio=4, got 3 x 9"):
        layer(torch.zeros(1, 3, 9, DIM))

# SPDX-License-Identifier: Apache-2.0
"""The parts of a pyramid's stages: patch embedding, perceptron with a convolution, block."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.closed_form import fill_, tensor
from vitdet_d2.layers.absolute_position import get_abs_pos
from vitdet_d2.layers.depthwise_mlp import DepthwiseMlp
from vitdet_d2.layers.mlp import Mlp
from vitdet_d2.layers.pyramid_block import PyramidBlock
from vitdet_d2.layers.spatial_reduction_attention import SpatialReductionAttention
from vitdet_d2.layers.strided_patch_embed import StridedPatchEmbed


def pixel(x, y, z):
    """Return a pixel's channels, zeros outside the map ``(C, H, W)``."""
    inside = 0 <= y < x.shape[1] and 0 <= z < x.shape[2]
    return x[:, y, z] if inside else torch.zeros_like(x[:, 0, 0])


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding"), [(4, 4, 0), (2, 2, 0), (7, 4, 3), (3, 2, 1)]
)
def test_patch_embed_matches_loops(kernel_size, stride, padding):
    layer = fill_(StridedPatchEmbed(3, 5, kernel_size, stride, padding).double())
    x = tensor("x", (2, 3, 10, 13))
    out = layer(x)
    h, w = ((n + 2 * padding - kernel_size) // stride + 1 for n in (10, 13))
    assert out.shape == (2, h, w, 5)
    for b in range(2):
        for i in range(h):
            for j in range(w):
                token = layer.proj.bias
                for y in range(kernel_size):
                    for z in range(kernel_size):
                        seen = pixel(x[b], i * stride + y - padding, j * stride + z - padding)
                        token = token + layer.proj.weight[:, :, y, z] @ seen
                expected = F.layer_norm(token, (5,), layer.norm.weight, layer.norm.bias, 1e-5)
                torch.testing.assert_close(out[b, i, j], expected)


@pytest.mark.parametrize("relu", [False, True])
def test_depthwise_mlp_matches_loops(relu):
    layer = fill_(DepthwiseMlp(4, 6, relu=relu).double())
    x = tensor("x", (1, 3, 5, 4))
    hidden = (x @ layer.fc1.weight.T + layer.fc1.bias)[0].permute(2, 0, 1)
    hidden = hidden.clamp(min=0) if relu else hidden
    weight, bias = layer.dwconv.dwconv.weight, layer.dwconv.dwconv.bias
    out = layer(x)
    for i in range(3):
        for j in range(5):
            value = bias
            for y in range(3):
                for z in range(3):
                    value = value + weight[:, 0, y, z] * pixel(hidden, i + y - 1, j + z - 1)
            value = value * 0.5 * (1 + torch.erf(value / 2**0.5))
            torch.testing.assert_close(out[0, i, j], layer.fc2.weight @ value + layer.fc2.bias)


def test_block_is_two_residual_branches():
    block = PyramidBlock(8, SpatialReductionAttention(8, 2, sr_ratio=2), Mlp(8, 16))
    fill_(block.double())
    x = tensor("x", (2, 4, 6, 8))
    norms = [(n.weight, n.bias) for n in (block.norm1, block.norm2)]
    middle = x + block.attn(F.layer_norm(x, (8,), *norms[0], 1e-6))
    expected = middle + block.mlp(F.layer_norm(middle, (8,), *norms[1], 1e-6))
    torch.testing.assert_close(block(x), expected)


def test_block_drops_branches_of_single_samples():
    block = PyramidBlock(8, nn.Identity(), nn.Identity(), drop_path=0.5).train()
    x = tensor("x", (64, 1, 1, 8)).float()
    changed = (block(x) != x).flatten(1).any(1)
    assert 0 < changed.sum() < 64
    assert (block.eval()(x) != x).all()


def bilinear(table, h, w):
    """Resize ``(g, g, C)`` with pixel centres at halves, clamped at the border."""
    g = table.shape[0]
    out = torch.zeros(h, w, table.shape[-1], dtype=table.dtype)
    for i in range(h):
        for j in range(w):
            y, x = ((k + 0.5) * g / n - 0.5 for k, n in ((i, h), (j, w)))
            y, x = max(y, 0.0), max(x, 0.0)
            top, left = int(y), int(x)
            down, right = min(top + 1, g - 1), min(left + 1, g - 1)
            fy, fx = y - top, x - left
            upper = (1 - fx) * table[top, left] + fx * table[top, right]
            lower = (1 - fx) * table[down, left] + fx * table[down, right]
            out[i, j] = (1 - fy) * upper + fy * lower
    return out


@pytest.mark.parametrize("hw", [(4, 4), (2, 8), (7, 5), (3, 2), (1, 1)])
@pytest.mark.parametrize("has_class_row", [False, True])
def test_bilinear_positions_match_loops(hw, has_class_row):
    table = tensor("table", (1, 16 + has_class_row, 3))
    out = get_abs_pos(table, has_class_row, hw, mode="bilinear")
    expected = bilinear(table[0, int(has_class_row) :].reshape(4, 4, 3), *hw)
    torch.testing.assert_close(out[0], expected)

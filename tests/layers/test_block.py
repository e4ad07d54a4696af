# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from tests.closed_form import fill_, tensor
from vitdet_d2.layers.block import Block
from vitdet_d2.layers.drop_path import DropPath
from vitdet_d2.layers.norm import channel_norm
from vitdet_d2.layers.residual_block import (
    ResBottleneckBlock,
    ResidualConvBlock,
    make_conv_block,
)


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    module = DropPath(0.25)
    out = module(torch.ones(4000, 2, 3))
    per_sample = out.flatten(1)
    assert torch.equal(per_sample, per_sample[:, :1].expand_as(per_sample))
    kept = per_sample[:, 0] != 0
    # 4000 draws: the standard deviation of the share is 0.007.
    assert abs(kept.float().mean().item() - 0.75) < 0.03
    torch.testing.assert_close(per_sample[kept], torch.full_like(per_sample[kept], 1 / 0.75))


def test_drop_path_is_the_identity_in_evaluation():
    x = torch.randn(8, 3)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0)(x) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_drop_path_refuses_a_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="expected 0 <= drop_prob < 1"):
        DropPath(rate)


def test_residual_block_starts_as_the_identity():
    x = torch.randn(2, 8, 5, 6)
    module = ResBottleneckBlock(8, 8, 4)
    assert torch.equal(module(x), x)
    assert not isinstance(module.norm3, nn.LayerNorm)
    nn.init.ones_(module.norm3.weight)
    assert not torch.allclose(module(x), x)


@pytest.mark.parametrize(("kind", "num_convs"), [("naive", 1), ("basic", 2), ("bottleneck", 3)])
def test_kinds_of_residual_blocks(kind, num_convs):
    """Against the formula, with all norms at work."""
    module = fill_(make_conv_block(kind, 8).double())
    assert list(make_conv_block(kind, 8).state_dict()) == list(module.state_dict())
    x = tensor("x", (2, 8, 5, 6))
    out = x
    for i in range(1, num_convs + 1):
        weight = module.get_parameter(f"conv{i}.weight")
        out = nn.functional.conv2d(out, weight, padding=weight.shape[-1] // 2)
        norm = module.get_submodule(f"norm{i}")
        out = nn.functional.layer_norm(
            out.permute(0, 2, 3, 1), (out.shape[1],), norm.weight, norm.bias, 1e-6
        ).permute(0, 3, 1, 2)
        if i < num_convs:
            out = nn.functional.gelu(out)
    torch.testing.assert_close(module(x), x + out)


def test_bad_residual_blocks_raise():
    with pytest.raises(ValueError, match="expected naive, basic or bottleneck, got 'wide'"):
        make_conv_block("wide", 8)
    with pytest.raises(ValueError, match=r"as many channels at the end .* got \[8, 4\]"):
        ResidualConvBlock((8, 4), (3,))


def test_residual_block_keys():
    keys = {name.rsplit(".", 1)[0] for name in ResBottleneckBlock(8, 8, 4).state_dict()}
    assert keys == {"conv1", "norm1", "conv2", "norm2", "conv3", "norm3"}


def test_block_adds_both_branches_to_its_input():
    block = Block(8, 2)
    for layer in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.randn(1, 3, 4, 8)
    assert torch.equal(block(x), x)


def test_channel_norm_of_no_name_is_the_identity():
    assert isinstance(channel_norm("", 4), nn.Identity)
    x = torch.randn(2, 4, 3, 3)
    expected = nn.functional.layer_norm(x.permute(0, 2, 3, 1), (4,), eps=1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(channel_norm("LN", 4)(x), expected)


@pytest.mark.parametrize("norm", ["", "FrozenBN"])
def test_a_norm_that_cannot_leave_zero_is_refused(norm):
    with pytest.raises(ValueError, match=f"norm: expected .* such as 'LN', got '{norm}'"):
        ResBottleneckBlock(8, 8, 4, norm=norm)

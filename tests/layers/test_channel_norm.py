# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from detectron2.layers.batch_norm import LayerNorm
from torch import nn

from tests.closed_form import fill_, tensor
from vitdet_d2.layers.channel_norm import ChannelLayerNorm, fuse_channel_norms
from vitdet_d2.layers.norm import channel_norm
from vitdet_d2.layers.upsample import Upsample2x


def written_out(x, norm):
    centred = x - x.mean(1, keepdim=True)
    scale = (centred.square().mean(1, keepdim=True) + norm.eps).sqrt()
    return norm.weight[:, None, None] * centred / scale + norm.bias[:, None, None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norm_over_channels_with_gradients(layout):
    norm = fill_(ChannelLayerNorm(6).double())
    assert norm.eps == 1e-6
    results = []
    for compute in (norm, lambda x: written_out(x, norm)):
        x = tensor("x", (2, 6, 3, 5)).contiguous(memory_format=layout).requires_grad_()
        out = compute(x)
        norm.zero_grad()
        (out * tensor("cotangent", tuple(out.shape))).sum().backward()
        results.append([out.detach(), x.grad, norm.weight.grad.clone(), norm.bias.grad.clone()])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    assert norm(x).is_contiguous(memory_format=torch.channels_last)


def test_norms_of_heads_are_fused_in_place():
    model = nn.Sequential(Conv2d(3, 4, 1, norm=get_norm("LN", 4)), nn.LayerNorm(4)).double()
    fill_(model)
    norm, x = model[0].norm, tensor("x", (1, 3, 4, 4))
    assert isinstance(norm, LayerNorm)
    expected, keys = model(x), list(model.state_dict())
    seen = []
    norm.register_forward_hook(lambda *given: seen.append(given))
    assert fuse_channel_norms(model) is model
    assert type(norm) is ChannelLayerNorm
    assert type(model[1]) is nn.LayerNorm
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == keys
    assert len(seen) == 1


def test_norms_by_name():
    assert type(channel_norm("LN", 4)) is ChannelLayerNorm
    assert type(channel_norm("BN", 4)) is nn.BatchNorm2d
    assert type(channel_norm("", 4)) is nn.Identity


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_upsampling_is_the_deconvolution_with_gradients(layout):
    ours, plain = Upsample2x(5, 3), nn.ConvTranspose2d(5, 3, kernel_size=2, stride=2)
    for module in (ours, plain):
        fill_(module.double())
    assert ours.state_dict().keys() == plain.state_dict().keys()
    results = []
    for module in (ours, plain):
        x = tensor("x", (2, 5, 3, 4)).contiguous(memory_format=layout).requires_grad_()
        out = module(x)
        (out * tensor("cotangent", tuple(out.shape))).sum().backward()
        results.append([out.detach(), x.grad, module.weight.grad, module.bias.grad])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    assert ours(x).is_contiguous(memory_format=torch.channels_last)
    assert ours(x, output_size=[6, 8]).shape == (2, 3, 6, 8)
    with pytest.raises(ValueError, match=r"expected \[6, 8\], got \[7, 8\]"):
        ours(x, output_size=[7, 8])

# SPDX-License-Identifier: Apache-2.0
"""Convolution with norm and activation, helpers, RoIAlign and suppression."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import (
    CNNBlockBase,
    Conv2d,
    FrozenBatchNorm2d,
    ROIAlign,
    ShapeSpec,
    batched_nms,
    cat,
    cross_entropy,
    get_norm,
    move_device_like,
    nonzero_tuple,
    shapes_to_tensor,
)
from torch import nn


def test_conv_applies_norm_then_activation() -> None:
    conv = Conv2d(
        3, 8, 3, stride=2, padding=1, bias=False, norm=get_norm("LN", 8), activation=torch.relu
    )
    assert sorted(conv.state_dict()) == ["norm.bias", "norm.weight", "weight"]
    x = torch.rand(2, 3, 9, 9)
    plain = nn.functional.conv2d(x, conv.weight, stride=2, padding=1)
    torch.testing.assert_close(conv(x), conv.norm(plain).relu())
    assert (conv(x) >= 0).all()
    bare = Conv2d(3, 8, 1)
    assert sorted(bare.state_dict()) == ["bias", "weight"]
    assert bare.norm is None
    assert bare.activation is None


def test_conv_takes_no_image() -> None:
    conv = Conv2d(3, 8, 3, padding=1, norm=get_norm("LN", 8))
    output = conv(torch.zeros(0, 3, 7, 7))
    assert output.shape == (0, 8, 7, 7)
    output.sum().backward()
    assert conv.weight.grad is not None
    assert not conv.weight.grad.any()


def test_cat_does_not_copy_a_single_tensor() -> None:
    x = torch.zeros(2, 3)
    assert cat([x]) is x
    assert cat((x, x), dim=1).shape == (2, 6)


def test_cross_entropy_over_nothing_is_zero_with_a_gradient() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    some, labels = torch.rand(4, 5), torch.tensor([0, 4, 2, 1])
    torch.testing.assert_close(
        cross_entropy(some, labels), nn.functional.cross_entropy(some, labels)
    )
    assert cross_entropy(some, labels, reduction="none").shape == (4,)


def test_small_helpers() -> None:
    rows, columns = nonzero_tuple(torch.tensor([[0, 1], [1, 0]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
    assert shapes_to_tensor([3, 4]).tolist() == [3, 4]
    assert move_device_like(torch.zeros(1), torch.zeros(1)).device == torch.device("cpu")
    assert ShapeSpec(channels=3, stride=4) == ShapeSpec(3, None, None, 4)


def test_roi_align_stands_on_cell_centres() -> None:
    # On a ramp, a bin's value is the ramp at the bin's centre: half a cell less when aligned.
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    rois = torch.tensor([[0.0, 8, 8, 24, 24]])  # image pixels; the map has stride 2
    crop = ROIAlign((2, 2), 0.5, 2)(ramp, rois)
    torch.testing.assert_close(crop[0, 0], torch.tensor([[5.5, 9.5], [5.5, 9.5]]))
    legacy = ROIAlign(2, 0.5, 2, aligned=False)(ramp, rois)
    torch.testing.assert_close(legacy[0, 0], torch.tensor([[6.0, 10.0], [6.0, 10.0]]))
    assert ROIAlign(7, 0.25, 0)(ramp, torch.zeros(0, 5)).shape == (0, 1, 7, 7)
    assert "sampling_ratio=2" in repr(ROIAlign((2, 2), 0.5, 2))


def test_suppression_is_per_category() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.6, 0.9, 0.8, 0.1])
    keep = batched_nms(boxes, scores, torch.tensor([0, 0, 1, 0]), 0.5)
    assert keep.tolist() == [1, 2, 3]
    assert batched_nms(boxes.half(), scores, torch.tensor([0, 0, 0, 0]), 0.5).tolist() == [1, 3]
    none = torch.zeros(0)
    assert batched_nms(torch.zeros(0, 4), none, none.long(), 0.5).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_suppression_takes_scores_of_any_type(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
    scores = torch.tensor([0.5, 0.75, 0.25], dtype=dtype)
    for box_type in (dtype, torch.float32):
        keep = batched_nms(boxes.to(box_type), scores, torch.tensor([0, 0, 0]), 0.5)
        assert keep.tolist() == [1, 2]
    # Closer than float32 can tell apart: the second is better all the same.
    close = torch.tensor([0.5, 0.5 + 1e-12, 0.25], dtype=torch.float64)
    assert batched_nms(boxes, close, torch.tensor([0, 0, 0]), 0.5).tolist() == [1, 2]


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_suppression_keeps_the_same() -> None:
    corner = torch.rand(200, 2) * 30
    boxes = torch.cat([corner, corner + 1 + torch.rand(200, 2) * 20], dim=1)
    scores, categories = torch.rand(200), torch.randint(0, 3, (200,))
    expected = batched_nms(boxes, scores, categories, 0.4)
    assert 0 < len(expected) < 200
    assert torch.equal(torch.jit.script(batched_nms)(boxes, scores, categories, 0.4), expected)


def test_frozen_block() -> None:
    block = CNNBlockBase(3, 4, 2)
    block.conv = nn.Conv2d(3, 4, 1)
    block.norm = nn.BatchNorm2d(4)
    assert block.freeze() is block
    assert not any(parameter.requires_grad for parameter in block.parameters())
    assert isinstance(block.norm, FrozenBatchNorm2d)
    assert (block.in_channels, block.out_channels, block.stride) == (3, 4, 2)

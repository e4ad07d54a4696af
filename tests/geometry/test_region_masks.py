# SPDX-License-Identifier: Apache-2.0
"""Masks of boxes, against Detectron2's pasting: every pixel."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from torch import Tensor

from vitdet_d2.geometry.region_masks import RegionMasks

SIZE = (96, 130)


def _boxes(count: int) -> Tensor:
    corner = torch.rand(count, 2) * torch.tensor([120.0, 90.0]) - 5
    boxes = torch.cat([corner, corner + torch.exp(5 * torch.rand(count, 2))], dim=1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, SIZE[1])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, SIZE[0])
    return boxes


def _masks(kind: str, count: int) -> Tensor:
    if kind == "noise":
        return torch.rand(count, 28, 28)
    if kind == "all in doubt":  # as the heads of a model without training give them
        return 0.5 + 1e-6 * torch.randn(count, 28, 28)
    if kind == "halves":
        return torch.randint(0, 3, (count, 7, 7)) / 2
    if kind == "large":
        return torch.rand(count, 112, 112)
    return torch.rand(count, 28, 28).to(torch.bfloat16)


@pytest.mark.parametrize("kind", ["noise", "all in doubt", "halves", "large", "bfloat16"])
def test_pixels_are_those_of_detectron2(kind):
    masks, boxes = _masks(kind, 40), _boxes(40)
    boxes[0] = torch.tensor([0.0, 0.0, SIZE[1], SIZE[0]])
    boxes[1] = torch.tensor([3.0, 4.0, 3.0 + 1e-4, 30.0])
    boxes[2] = torch.tensor([0.5, 0.5, 4.5, 4.5])
    regions = RegionMasks(masks, boxes, SIZE)
    expected = paste_masks_in_image(masks.float(), boxes, SIZE)
    torch.testing.assert_close(regions.paste(), expected, rtol=0, atol=0)
    codes = mask_util.encode(np.asfortranarray(expected.numpy().transpose(1, 2, 0).astype("uint8")))
    assert [c["counts"] for c in regions.encode()] == [c["counts"].decode() for c in codes]
    assert expected.any()


def test_a_box_of_several_tiles():
    masks, size = torch.rand(1, 28, 28), (400, 700)
    boxes = torch.tensor([[10.3, 5.8, 690.1, 399.5]])
    expected = paste_masks_in_image(masks, boxes, size)
    assert torch.equal(RegionMasks(masks, boxes, size).paste(), expected)


def test_masks_are_selected_with_their_boxes():
    masks, boxes = torch.rand(5, 14, 14), _boxes(5)
    regions = RegionMasks(masks, boxes, SIZE)
    whole = regions.paste()
    for item in (slice(1, 4), [4, 0], torch.tensor([True, False, True, True, False])):
        assert torch.equal(regions[item].paste(), whole[item])
    assert torch.equal(regions[-1].paste(), whole[4:])
    assert torch.equal(regions[2].to("cpu").paste(), whole[2:3])
    assert regions[[]].paste().shape == (0, *SIZE)
    assert regions[[]].encode() == []


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"square masks \(N, M, M\), got \(2, 7, 8\)"):
        RegionMasks(torch.zeros(2, 7, 8), torch.zeros(2, 4), SIZE)
    with pytest.raises(ValueError, match=r"boxes: expected \(2, 4\), got \(3, 4\)"):
        RegionMasks(torch.zeros(2, 7, 7), torch.zeros(3, 4), SIZE)

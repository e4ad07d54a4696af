# SPDX-License-Identifier: Apache-2.0
"""Pasting masks: a golden, a loop-written reference, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes

RAMP = torch.arange(25.0).reshape(1, 5, 5) / 24
RAMP_BOX = torch.tensor([[1.3, 2.1, 7.9, 6.4]])
# Measured on detectron2 02b5c4e: bits of the 8 x 9 mask, and two rows of it without a threshold.
RAMP_BITS = "0000000001f1f80000"
RAMP_ROWS = {3: [0, 39, 64, 72, 80, 88, 96, 82, 4], 6: [0, 53, 83, 86, 89, 92, 95, 78, 4]}


def value_at(mask: torch.Tensor, box: list[float], x: float, y: float) -> float:
    """Bilinear value at one pixel centre; cells beyond the mask are 0."""
    size = mask.shape[0]
    u = (x - box[0]) / (box[2] - box[0]) * size - 0.5
    v = (y - box[1]) / (box[3] - box[1]) * size - 0.5
    total = 0.0
    for row in (math.floor(v), math.floor(v) + 1):
        for column in (math.floor(u), math.floor(u) + 1):
            if 0 <= row < size and 0 <= column < size:
                weight = (1 - abs(v - row)) * (1 - abs(u - column))
                total += weight * float(mask[row, column])
    return total


def test_pasting_matches_detectron2() -> None:
    mask = paste_masks_in_image(RAMP, RAMP_BOX, (8, 9))
    assert mask.dtype == torch.bool
    assert np.packbits(mask.numpy()).tobytes().hex() == RAMP_BITS
    soft = paste_masks_in_image(RAMP, Boxes(RAMP_BOX), (8, 9), threshold=-1)
    assert soft.dtype == torch.uint8
    for row, values in RAMP_ROWS.items():
        assert soft[0, row].tolist() == values


def test_pasting_matches_a_loop() -> None:
    masks = torch.rand(4, 6, 6)
    boxes = [[0.0, 0, 12, 10], [2.3, 1.7, 9.1, 8.9], [-4, -3, 7, 30], [5.2, 5.1, 6.0, 5.9]]
    soft = paste_masks_in_image(masks, torch.tensor(boxes), (10, 12), threshold=-1)
    for mask, box, pasted in zip(masks, boxes, soft, strict=True):
        for y in range(10):
            for x in range(12):
                expected = 255 * value_at(mask, box, x + 0.5, y + 0.5)
                assert abs(float(pasted[y, x]) - expected) <= 1.001  # truncated to a byte


def test_no_mask() -> None:
    assert paste_masks_in_image(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6)).shape == (
        0,
        5,
        6,
    )


def test_boxes_outside_of_the_image_show_nothing() -> None:
    outside = torch.tensor([[20.0, 1, 30, 4], [1, 20, 4, 30]])
    assert not paste_masks_in_image(torch.ones(2, 4, 4), outside, (5, 6)).any()


def test_half_precision_masks_keep_their_place() -> None:
    # A grid in half precision is off by whole pixels in a large image.
    masks, box = torch.ones(1, 28, 28), torch.tensor([[1001.0, 0, 1501, 3]])
    half = paste_masks_in_image(masks.half(), box, (3, 2000))
    assert torch.equal(half, paste_masks_in_image(masks, box, (3, 2000)))
    assert half[0, 1].nonzero().flatten()[[0, -1]].tolist() == [1001, 1500]


@pytest.mark.parametrize(
    ("masks", "boxes", "message"),
    [((1, 4, 5), (1, 4), "square"), ((2, 4, 4), (1, 4), "one per mask")],
)
def test_wrong_shapes_are_told(
    masks: tuple[int, ...], boxes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        paste_masks_in_image(torch.zeros(masks), torch.zeros(boxes), (5, 5))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_pasting_is_the_same() -> None:
    masks = torch.rand(3, 7, 7)
    boxes = torch.tensor([[2.0, 3.0, 20.0, 15.0], [-4.0, 1.0, 9.5, 30.0], [50.0, 50.0, 60.0, 60.0]])
    scripted = torch.jit.script(paste_masks_in_image)
    for threshold in (0.5, -1.0):
        expected = paste_masks_in_image(masks, boxes, (18, 24), threshold)
        assert expected[0].any()
        assert torch.equal(scripted(masks, boxes, (18, 24), threshold), expected)
    with pytest.raises(torch.jit.Error, match="expected one per mask"):
        scripted(masks, boxes[:2], (18, 24))

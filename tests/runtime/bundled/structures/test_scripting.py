# SPDX-License-Identifier: Apache-2.0
"""Boxes and image lists compiled by ``torch.jit.script`` or traced: the same numbers as without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, ImageList
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")


def summarise(corners: Tensor, more: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    boxes = Boxes(corners)
    joined = boxes.cat([boxes, Boxes(more)])
    joined.scale(2.0, 0.5)
    joined.clip((10, 20))
    return joined.tensor, joined.area(), joined.get_centers(), joined.nonempty(), len(joined)


def test_scripted_boxes_compute_the_same() -> None:
    corners = torch.tensor([[1.0, 2.0, 3.0, 6.0], [-1.0, 4.0, 30.0, 8.0]])
    expected = summarise(corners, torch.zeros(1, 4))
    assert expected[0].tolist()[1] == [0.0, 2.0, 20.0, 4.0]
    got = torch.jit.script(summarise)(corners, torch.zeros(1, 4))
    for first, second in zip(expected, got, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_scripted_boxes_refuse_another_shape() -> None:
    def wrap(corners: Tensor) -> Tensor:
        return Boxes(corners).tensor

    with pytest.raises(torch.jit.Error, match="expected shape"):
        torch.jit.script(wrap)(torch.zeros(2, 5))


def pad(images: list[Tensor], constraints: dict[str, int]) -> ImageList:
    return ImageList.from_tensors(images, 4, 7.0, constraints)


@pytest.mark.parametrize(
    ("constraints", "size"),
    [({}, (12, 8)), ({"size_divisibility": 5}, (10, 10)), ({"square_size": 16}, (16, 16))],
)
def test_scripted_image_list_pads_the_same(
    constraints: dict[str, int], size: tuple[int, int]
) -> None:
    images = [torch.rand(3, 9, 5), torch.rand(3, 2, 8)]
    expected = pad(images, constraints)
    assert expected.tensor.shape[-2:] == size
    got = torch.jit.script(pad)(images, constraints)
    assert torch.equal(got.tensor, expected.tensor)
    assert list(got.image_sizes) == expected.image_sizes == [(9, 5), (2, 8)]
    assert torch.equal(got[1], images[1])


def test_scripted_image_list_refuses_what_the_other_does() -> None:
    scripted = torch.jit.script(pad)
    with pytest.raises(torch.jit.Error, match="size_divisiblity"):
        scripted([torch.rand(1, 2, 2)], {"size_divisiblity": 2})
    with pytest.raises(torch.jit.Error, match="does not fit the padded square of 4"):
        scripted([torch.rand(1, 5, 2)], {"square_size": 4})


@pytest.mark.parametrize("square_size", [0, 24])
def test_trace_holds_for_images_of_other_sizes(square_size: int) -> None:
    def batch(images: Sequence[Tensor]) -> Any:
        padded = ImageList.from_tensors(list(images), 4, 7.0, {"square_size": square_size})
        return padded.tensor, tuple(padded.image_sizes)

    traced = torch.jit.trace(batch, ([torch.rand(3, 4, 8), torch.rand(3, 3, 3)],))
    images = [torch.rand(3, 9, 5), torch.rand(3, 2, 14)]
    tensor, sizes = traced(images)
    expected, _ = batch(images)
    assert torch.equal(tensor, expected)
    assert [size.tolist() for size in sizes] == [[9, 5], [2, 14]]

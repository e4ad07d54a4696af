# SPDX-License-Identifier: Apache-2.0
"""Batches of images: padding by hand, constraints, and the square that used to crop."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList


@pytest.mark.parametrize("sizes", [[(5, 7)], [(5, 7), (9, 3)]])
@pytest.mark.parametrize(
    ("divisibility", "constraints"),
    [(0, None), (4, None), (4, {"size_divisibility": 8}), (0, {"square_size": 10}),
     (0, {"size_divisibility": 8, "square_size": 10})],
)  # fmt: skip
def test_padding_matches_a_loop(
    sizes: list[tuple[int, int]], divisibility: int, constraints: dict[str, int] | None
) -> None:
    images = [torch.rand(3, *size) for size in sizes]
    batch = ImageList.from_tensors(images, divisibility, 0.5, constraints)
    side = (constraints or {}).get("square_size", 0)
    step = (constraints or {}).get("size_divisibility", divisibility) or 1
    target = [side or max(size[axis] for size in sizes) for axis in (0, 1)]
    target = [length + -length % step for length in target]
    assert batch.tensor.shape == (len(images), 3, *target)
    assert len(batch) == len(images)
    assert [tuple(size) for size in batch.image_sizes] == sizes
    for index, image in enumerate(images):
        assert torch.equal(batch[index], image)
        outside = torch.ones(target, dtype=torch.bool)
        outside[: image.shape[1], : image.shape[2]] = False
        assert (batch.tensor[index][:, outside] == 0.5).all()


def test_gradients_reach_the_images() -> None:
    images = [torch.rand(1, 2, 3, requires_grad=True), torch.rand(1, 4, 2, requires_grad=True)]
    ImageList.from_tensors(images, 4).tensor.square().sum().backward()
    for image in images:
        torch.testing.assert_close(image.grad, 2 * image.detach())


def test_moves_and_takes_images_without_channels() -> None:
    batch = ImageList.from_tensors([torch.zeros(2, 3), torch.zeros(4, 1)])
    assert batch.tensor.shape == (2, 4, 3)
    moved = batch.to(dtype=torch.float64)
    assert moved.tensor.dtype == torch.float64
    assert moved.device == torch.device("cpu")


def test_owns_its_memory() -> None:
    image = torch.zeros(1, 2, 2)
    ImageList.from_tensors([image]).tensor.fill_(1)
    assert image.sum() == 0


def test_image_larger_than_the_square_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"6 x 11 pixels does not fit .* 10.*raise"):
        ImageList.from_tensors([torch.zeros(3, 6, 11)], padding_constraints={"square_size": 10})


def test_misspelt_constraint_is_an_error() -> None:
    with pytest.raises(ValueError, match="size_divisiblity"):
        ImageList.from_tensors([torch.zeros(3, 4, 4)], padding_constraints={"size_divisiblity": 2})


def test_nothing_and_different_channels_are_errors() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        ImageList.from_tensors([])
    with pytest.raises(ValueError, match="channels differ"):
        ImageList.from_tensors([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)])

# SPDX-License-Identifier: Apache-2.0
"""No image is cropped by padding, on either runtime."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from vitdet_d2.checks.square_pad import refuse_cropping, square_side
from vitdet_d2.errors import RecipeError


class Backbone(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.padding_constraints = {"size_divisibility": 2, "square_size": side}


class Detector(nn.Module):
    """Pads its images as Detectron2's detectors do, and returns them."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.backbone = Backbone(side)

    def forward(self, batch: list[dict[str, Any]]) -> Tensor:
        images = [sample["image"] for sample in batch]
        constraints = self.backbone.padding_constraints
        return ImageList.from_tensors(images, padding_constraints=constraints).tensor


def sample(height: int, width: int, **more: Any) -> dict[str, Any]:
    return {"image": torch.ones(3, height, width), **more}


@pytest.mark.parametrize(("height", "width"), [(17, 16), (16, 17), (40, 40)])
@pytest.mark.parametrize("position", [0, 1])
def test_a_larger_image_is_refused_in_any_place(height: int, width: int, position: int) -> None:
    batch = [sample(8, 8), sample(8, 8)]
    batch[position] = sample(height, width, file_name="a/b.jpg")
    expected = rf"^a/b\.jpg: an image of {height} x {width} pixels does not fit the square of 16 "
    with pytest.raises(RecipeError, match=expected + r".*raise model\.backbone\.square_pad"):
        refuse_cropping(Detector(16))(batch)


def test_one_larger_image_alone_is_refused_too() -> None:
    # The case in which an installed Detectron2 crops.
    with pytest.raises(RecipeError, match=r"^an image of 20 x 12 pixels does"):
        refuse_cropping(Detector(16))([sample(20, 12)])


@pytest.mark.parametrize(("height", "width"), [(16, 16), (1, 16), (3, 2)])
def test_what_fits_passes_unchanged(height: int, width: int) -> None:
    padded = refuse_cropping(Detector(16))([sample(height, width)])
    assert padded.shape == (1, 3, 16, 16)
    assert padded.sum() == 3 * height * width


def test_without_a_square_any_size_passes() -> None:
    padded = refuse_cropping(Detector(0))([sample(20, 12)])
    assert padded.sum() == 3 * 20 * 12


def test_the_check_survives_copies() -> None:
    model = refuse_cropping(Detector(16))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(RecipeError, match="does not fit"):
            other([sample(17, 1)])


def test_the_check_is_installed_once() -> None:
    model = refuse_cropping(refuse_cropping(Detector(16)))
    assert len(model._forward_pre_hooks) == 1


def test_what_is_no_detector_is_left_alone() -> None:
    model = nn.Linear(2, 2)
    assert refuse_cropping(model) is model
    assert not model._forward_pre_hooks
    assert square_side(model) == 0

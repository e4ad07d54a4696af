# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from detectron2.config import LazyCall
from detectron2.structures import Boxes, Instances
from detectron2.utils.testing import (
    assert_instances_allclose,
    random_boxes,
    reload_lazy_config,
    reload_script_model,
)
from torch import Tensor


def test_random_boxes_have_sides_and_stay_inside() -> None:
    boxes = random_boxes(500, 40)
    assert boxes.shape == (500, 4)
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 1 - 1e-5  # float32: a difference of two sums
    assert boxes.min() >= 1
    assert 30 < boxes.max() <= 40


def test_reloaded_recipe_is_the_same_but_for_names_of_targets() -> None:
    recipe = LazyCall(Boxes)(tensor=[1, 2, "${.other}"], other=None)
    again = reload_lazy_config(recipe)
    assert again.pop("_target_") == "detectron2.structures.Boxes"
    recipe.pop("_target_")
    assert again == recipe


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_reloaded_script_computes_the_same() -> None:
    def double(x: Tensor) -> Tensor:
        return x * 2

    assert reload_script_model(torch.jit.script(double))(torch.ones(2)).tolist() == [2, 2]


def make(**changes: object) -> Instances:
    fields = {"boxes": Boxes(torch.ones(2, 4)), "score": torch.ones(2), "label": torch.arange(2)}
    return Instances((4, 5), **{**fields, **changes})


def test_equal_instances_pass() -> None:
    assert_instances_allclose(make(), make(score=torch.ones(2) + 1e-6))
    sized = Instances(torch.tensor([4, 5]), **make().get_fields())  # type: ignore[arg-type]
    assert_instances_allclose(make(), sized, size_as_tensor=True)
    assert_instances_allclose(make(), make(boxes=Boxes(torch.full((2, 4), 1.05))), rtol=1e-3)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (make(score=torch.tensor([1.0, 1.1])), "here field 'score' differs"),
        (make(label=torch.tensor([0, 2])), "here field 'label' differs"),
        (make(boxes=Boxes(torch.zeros(2, 4))), "here field 'boxes' differs"),
        (make(extra=torch.ones(2)), "here the fields are"),
        (Instances((5, 4), **make().get_fields()), r"here image_size is \(4, 5\) and \(5, 4\)"),
    ],
)
def test_different_instances_say_in_what(other: Instances, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        assert_instances_allclose(make(), other, msg="here ")


def test_a_field_that_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(TypeError, match="field 'names': cannot compare list"):
        assert_instances_allclose(make(names=["a", "b"]), make(names=["a", "b"]))

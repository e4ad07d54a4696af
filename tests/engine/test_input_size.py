# SPDX-License-Identifier: Apache-2.0
"""Recipes whose images cannot fit their models."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from vitdet_d2.checks.square_pad import square_side
from vitdet_d2.engine.build import build_model, resolve_device
from vitdet_d2.engine.input_size import check_input_size
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.errors import RecipeError
from vitdet_d2.zoo.recipe_names import recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_ours_fits(name: str) -> None:
    check_input_size(load_recipe(name))


@pytest.mark.parametrize("size", ["max_size=1025", "max_size=1333"])
def test_a_larger_test_image_is_refused(size: str) -> None:
    cfg = load_recipe("vitdet_b", [f"dataloader.test.mapper.augmentations.0.{size}"])
    expected = (
        rf"dataloader\.test\.mapper\.augmentations\.0\.{size}: an image of \d+ pixels does not fit "
        r"the square of 1024 .* raise model\.backbone\.square_pad"
    )
    with pytest.raises(RecipeError, match=expected):
        check_input_size(cfg)


def test_a_larger_crop_in_training_is_refused() -> None:
    changed = "dataloader.train.mapper.augmentations.2.crop_size=[1280, 1280]"
    with pytest.raises(RecipeError, match=r"train\.mapper\.augmentations\.2\.crop_size=1280"):
        check_input_size(load_recipe("vitdet_b", [changed]))


def test_both_cures_help() -> None:
    larger = "dataloader.test.mapper.augmentations.0.max_size=1280"
    check_input_size(load_recipe("vitdet_b", [larger, "model.backbone.square_pad=1280"]))
    check_input_size(load_recipe("vitdet_b", ["data.image_size=1280"]))


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"model": {"backbone": {"square_pad": 0}}},
        {"model": {"backbone": {"square_pad": 64}}, "dataloader": {"test": {"mapper": {}}}},
    ],
)
def test_recipes_without_such_keys_pass(recipe: dict) -> None:
    check_input_size(OmegaConf.create(recipe))


def test_built_models_have_the_check() -> None:
    cfg = load_recipe("quickstart")
    model = build_model(cfg, resolve_device("cpu"))
    assert square_side(model) == 192
    with pytest.raises(RecipeError, match="an image of 193 x 4 pixels does"):
        model.eval()([{"image": torch.zeros(3, 193, 4)}])

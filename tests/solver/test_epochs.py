# SPDX-License-Identifier: Apache-2.0
"""Runs of so many epochs: hand-computed lengths and warm-ups, and what cannot be computed."""

import pytest
from omegaconf import OmegaConf

from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.errors import RecipeError
from vitdet_d2.solver.epochs import prefer_given_length, settle_epochs


def recipe(**train):
    return OmegaConf.create(
        {
            "train": {"max_iter": 1000, "epochs": 10, "warmup_epochs": None, **train},
            "dataloader": {"train": {"total_batch_size": 16}},
            "lr_multiplier": {"warmup_length": 0.1},
        }
    )


@pytest.mark.parametrize(
    ("train", "images", "length", "warmup"),
    [
        # 10 * 800 / 16; a warm-up of 0.25 of 10 epochs.
        ({"warmup_epochs": 0.25}, 800, 500, 0.025),
        # The last part of an iteration counts: 10 * 801 / 16 = 500.6.
        ({"warmup_epochs": 0.25}, 801, 501, 0.025),
        # 100 iterations of warm-up stay 100: of 500.
        ({}, 800, 500, 0.2),
        ({"accumulate": 4, "warmup_epochs": 0}, 800, 125, 0.0),
        ({"epochs": 0.5, "warmup_epochs": 0.1}, 800, 25, 0.2),
        ({"epochs": None}, 800, 1000, 0.1),
        ({"epochs": None}, None, 1000, 0.1),
    ],
)
def test_length_and_warmup(train, images, length, warmup):
    cfg = recipe(**train)
    for _ in range(2):  # a recipe that was settled, saved and loaded again
        settle_epochs(cfg, images)
        assert cfg.train.max_iter == length
        assert cfg.lr_multiplier.warmup_length == pytest.approx(warmup)


def test_a_given_length_wins():
    cfg = recipe(max_iter=20)
    prefer_given_length(cfg, ["train.max_iter"])
    settle_epochs(cfg, 800)
    assert (cfg.train.max_iter, cfg.train.epochs) == (20, None)


@pytest.mark.parametrize(
    ("train", "images", "message"),
    [
        ({}, None, "the number of training images is not known.*give train.max_iter"),
        ({"epochs": 0}, 800, "train.epochs: expected a number above 0.*got 0"),
        ({"epochs": -1}, 800, "train.epochs: expected a number above 0.*got -1"),
        ({"epochs": "many"}, 800, "train.epochs: expected a number above 0.*got 'many'"),
        ({"epochs": float("nan")}, 800, "train.epochs: expected a number above 0.*got nan"),
        ({"warmup_epochs": 10}, 800, "the warm-up alone is 10 epochs"),
        ({"epochs": 1}, 800, "the warm-up alone is 2 epochs"),
    ],
)
def test_refusals(train, images, message):
    with pytest.raises(RecipeError, match=message):
        settle_epochs(recipe(**train), images)


def test_both_lengths_are_refused():
    with pytest.raises(RecipeError, match="both say how long"):
        load_recipe("benchmark_vit_b_mae", ["train.epochs=25", "train.max_iter=20"])

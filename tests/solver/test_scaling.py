# SPDX-License-Identifier: Apache-2.0
"""Recipes at other batch sizes: hand-computed numbers, what is kept, and scaling twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import instantiate
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig, OmegaConf

from vitdet_d2.engine.recipe_json import to_json
from vitdet_d2.engine.recipes import load_recipe, load_scaled_recipe, save_resolved
from vitdet_d2.errors import RecipeError
from vitdet_d2.solver import format_scaling, scale_recipe

MICRO = "dataloader.train.total_batch_size"

# Detectron2's own form: no keys of ours, a base rate that refers to the optimizer's.
UPSTREAM = """
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

model = {}
dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.total_batch_size = 64
train = model_zoo.get_config("common/train.py").train
train.max_iter = 184375
optimizer = model_zoo.get_config("common/optim.py").AdamW
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[163889, 177546], num_updates=train.max_iter
    ),
    warmup_length=250 / train.max_iter,
    warmup_factor=0.001,
)
"""


@pytest.fixture
def upstream(tmp_path: Path) -> str:
    path = tmp_path / "upstream.py"
    path.write_text(UPSTREAM)
    return str(path)


def tiny(**changes: Any) -> DictConfig:
    cfg = OmegaConf.create(
        {
            "dataloader": {"train": {"total_batch_size": 64}},
            "optimizer": {"lr": 1e-4},
            "train": {"max_iter": 1000, "eval_period": 100, "checkpointer": {"period": 50}},
        }
    )
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    return cfg


@pytest.mark.parametrize("source", ["ours", "upstream"])
def test_a_quarter_of_the_batch(source: str, upstream: str) -> None:
    """16 images for 64: a quarter of the rate, four times the iterations, the same epochs."""
    cfg = load_recipe("vitdet_b" if source == "ours" else upstream, ["train.global_batch=16"])
    assert cfg.dataloader.train.total_batch_size == 16
    assert cfg.train.max_iter == 4 * 184375
    assert (cfg.train.eval_period, cfg.train.checkpointer.period) == (20000, 20000)
    assert cfg.train.log_period == 20
    assert cfg.optimizer.lr == cfg.optimizer.params.base_lr == pytest.approx(2.5e-5)
    multiplier = instantiate(cfg.lr_multiplier)
    # Steps and the end of warm-up, where they are in the full recipe, times four.
    for step, before, after in ((4 * 163889, 1.0, 0.1), (4 * 177546, 0.1, 0.01)):
        assert multiplier((step - 1) / cfg.train.max_iter) == before
        assert multiplier(step / cfg.train.max_iter) == after
    assert multiplier(999 / cfg.train.max_iter) < 1.0
    assert multiplier(1000 / cfg.train.max_iter) == pytest.approx(1.0)


def test_twice_the_batch() -> None:
    cfg = tiny()
    scale_recipe(cfg, 128)
    assert cfg.optimizer.lr == pytest.approx(2e-4)
    assert (cfg.train.max_iter, cfg.train.eval_period, cfg.train.checkpointer.period) == (
        500,
        50,
        25,
    )


def test_periods_stay_whole_and_zero_stays_zero() -> None:
    cfg = tiny(train__eval_period=0, train__checkpointer__period=3)
    scale_recipe(cfg, 64 * 50)
    assert (cfg.train.eval_period, cfg.train.checkpointer.period) == (0, 1)
    assert cfg.train.max_iter == 20


def test_what_refers_to_another_key_follows_it_once() -> None:
    """A chain of references, scaled from one end to the other, would be scaled three times."""
    cfg = tiny(train__eval_period="${train.max_iter}")
    cfg.train.checkpointer.period = "${train.eval_period}"
    rows = scale_recipe(cfg, 16)
    assert (cfg.train.eval_period, cfg.train.checkpointer.period) == (4000, 4000)
    assert [(row.before, row.after) for row in rows[-2:]] == [(1000, 4000)] * 2
    cfg = tiny(train__checkpointer__period="${train.eval_period}")
    scale_recipe(cfg, 16)
    assert (cfg.train.eval_period, cfg.train.checkpointer.period) == (400, 400)


@pytest.mark.parametrize("updates", ["${train.max_iter}", 1000])
def test_steps_of_the_rate_stay_at_their_epochs(updates: object) -> None:
    schedule = {"milestones": [800, 950], "num_updates": updates, "values": [1.0, 0.1, 0.01]}
    cfg = tiny(lr_multiplier={"scheduler": schedule})
    scale_recipe(cfg, 16)
    scheduler = MultiStepParamScheduler(**cfg.lr_multiplier.scheduler)
    assert [scheduler(n / 4000) for n in (3199, 3200, 3799, 3800)] == [1.0, 0.1, 0.1, 0.01]


def test_decay_of_the_average_keeps_its_length_in_images() -> None:
    cfg = tiny(train__ema__decay=0.99)
    scale_recipe(cfg, 16)
    # Four steps for one: four times the new decay is the old one.
    assert cfg.train.ema.decay**4 == pytest.approx(0.99)


def test_rates_of_single_parameters_are_scaled_too() -> None:
    groups = {"base_lr": 1e-3, "overrides": {"pos_embed": {"lr": 1e-5, "weight_decay": 0.0}}}
    cfg = tiny(optimizer__params=groups)
    scale_recipe(cfg, 32)
    assert cfg.optimizer.params.base_lr == pytest.approx(5e-4)
    assert cfg.optimizer.params.overrides.pos_embed == pytest.approx(
        {"lr": 5e-6, "weight_decay": 0}
    )


@pytest.mark.parametrize(
    ("overrides", "micro", "accumulate"),
    [
        (["train.accumulate=4"], 16, 4),
        ([f"{MICRO}=2"], 2, 32),
        (["dataloader={train: {total_batch_size: 8}}"], 8, 8),
        ([f"{MICRO}=4", "train.accumulate=16"], 4, 16),
    ],
)
def test_accumulation_alone_changes_nothing_else(
    overrides: list[str], micro: int, accumulate: int
) -> None:
    cfg = load_recipe("vitdet_b", ["train.global_batch=64", *overrides])
    assert (cfg.dataloader.train.total_batch_size, cfg.train.accumulate) == (micro, accumulate)
    assert (cfg.optimizer.lr, cfg.train.max_iter, cfg.train.eval_period) == (1e-4, 184375, 5000)


def test_given_keys_are_kept_and_named() -> None:
    cfg, rows = load_scaled_recipe(
        "vitdet_b", ["train.global_batch=16", "optimizer.lr=4e-5", "train.max_iter=9000"]
    )
    assert (cfg.optimizer.lr, cfg.train.max_iter, cfg.train.eval_period) == (4e-5, 9000, 20000)
    kept = [row.key for row in rows if row.note == "kept as given"]
    assert kept == ["optimizer.lr", "train.max_iter"]
    table = format_scaling(rows).splitlines()
    assert table[0].split() == ["key", "recipe", "now"]
    assert table[1].split() == [MICRO, "64", "16"]
    assert any(line.split() == ["optimizer.lr", "4e-05", "4e-05", *"kept as given".split()]
               for line in table)  # fmt: skip
    warmup = next(row for row in rows if row.key.startswith("warm-up"))
    assert warmup.after == round(250 / 184375 * 9000)


def test_a_scaled_recipe_is_not_scaled_again(tmp_path: Path) -> None:
    overrides = ["train.global_batch=16", "train.accumulate=2", "train.ema.decay=0.9998"]
    once = load_recipe("vitdet_b", overrides)
    save_resolved(once, tmp_path)
    for name in ("config.json", "config.yaml"):
        for again in ([], overrides):
            twice = load_recipe(str(tmp_path / name), again)
            assert to_json(twice) == to_json(once)
    # From there to another batch is as from the start.
    direct, further = (
        load_recipe(source, ["train.global_batch=32"])
        for source in ("vitdet_b", str(tmp_path / "config.json"))
    )
    assert further.optimizer.lr == pytest.approx(direct.optimizer.lr)
    assert further.train.max_iter == direct.train.max_iter


def test_evaluation_scales_nothing() -> None:
    cfg = load_recipe("vitdet_b", ["train.global_batch=16"], eval_only=True)
    assert cfg.dataloader.train.total_batch_size == 64


@pytest.mark.parametrize(
    ("overrides", "processes", "message"),
    [
        (
            ["train.global_batch=60", "train.accumulate=8"],
            1,
            r"train\.global_batch=60 is no multiple of train\.accumulate=8; take "
            r"train\.global_batch=56",
        ),
        (
            ["train.global_batch=64", f"{MICRO}=5"],
            1,
            r"=64 is no multiple of dataloader\.train\.total_batch_size=5; .*=60",
        ),
        (
            ["train.global_batch=64", f"{MICRO}=4", "train.accumulate=4"],
            1,
            r"=64 contradicts .*total_batch_size=4 with train\.accumulate=4, which make 16",
        ),
        (
            ["train.global_batch=64", "train.accumulate=16"],
            8,
            r"total_batch_size=4 cannot be divided among 8 processes .*; take "
            r"train\.accumulate=8 or a batch of 128 images",
        ),
        ([], 6, r"=64 cannot be divided among 6 processes .*; take a batch of 60 images"),
        (["train.global_batch=many"], 1, r"expected a whole number of at least 1, got 'many'"),
        (["train.global_batch=0"], 1, r"expected a whole number of at least 1, got 0"),
    ],
)
def test_what_does_not_come_out_even_is_refused_with_the_cure(
    overrides: list[str], processes: int, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_scaled_recipe("vitdet_b", overrides, num_processes=processes)


@pytest.mark.parametrize(
    ("remove", "message"),
    [("optimizer", r"no learning rate to scale"), ("dataloader", r"total_batch_size: expected")],
)
def test_nothing_to_scale_is_an_error(remove: str, message: str) -> None:
    cfg = tiny()
    cfg[remove] = {"train": {}}
    with pytest.raises(RecipeError, match=message):
        scale_recipe(cfg, 16)

# SPDX-License-Identifier: Apache-2.0
"""Which keys a study sets, and what makes it another study."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import LazyCall
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tests.tuning.fake_cells import protocol
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.errors import RecipeError
from vitdet_d2.tuning.cells import Cell
from vitdet_d2.tuning.recipe_keys import RecipeKeys, find_keys, refuse_own_keys
from vitdet_d2.tuning.settings import Settings, recipe_text

NET = "model.backbone.net.drop_path_rate"
CELL = Cell(lr=1e-5, weight_decay=0.05, drop_path=0.0)


def recipe(model: DictConfig | dict[str, object]) -> DictConfig:
    content = {"model": model, "optimizer": {"lr": 0.1, "weight_decay": 0.1}}
    return OmegaConf.create(content, flags={"allow_objects": True})


def settings(cfg: DictConfig, metric: str = "bbox/AP") -> Settings:
    keys = RecipeKeys(drop_path=NET)
    return Settings(
        recipe=recipe_text(cfg, keys), protocol=protocol(), metric=metric, objective="final"
    )


@pytest.mark.parametrize("name", ["quickstart", "vitdet_b", "lvis_cascade_vitdet_l"])
def test_keys_of_recipes_are_found_and_take_the_values(name: str) -> None:
    keys = find_keys(load_recipe(name), name)
    assert keys.drop_path == NET
    cfg = load_recipe(name, keys.overrides(CELL))
    assert OmegaConf.select(cfg, NET) == 0.0
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-5, 0.05)


def test_a_backbone_without_a_neck_has_the_key_too() -> None:
    cfg = recipe({"backbone": LazyCall(nn.Linear)(drop_path_rate=0.1)})
    assert find_keys(cfg, "r").drop_path == "model.backbone.drop_path_rate"


def test_missing_and_ambiguous_keys_are_named() -> None:
    with pytest.raises(RecipeError, match=r"r\.py has no key named drop_path_rate"):
        find_keys(recipe({"backbone": {"depth": 4}}), "r.py")
    two = recipe({"backbone": {"a": {"drop_path_rate": 0}, "b": {"drop_path_rate": 0}}})
    with pytest.raises(
        RecipeError, match=r"a\.drop_path_rate, model\.backbone\.b.*--drop-path-key"
    ):
        find_keys(two, "r.py")
    chosen = "model.backbone.b.drop_path_rate"
    assert find_keys(two, "r.py", chosen).drop_path == chosen
    with pytest.raises(RecipeError, match=r"--drop-path-key model\.x: .* no such key; there are"):
        find_keys(two, "r.py", "model.x")
    for missing in ("lr", "weight_decay"):
        cfg = recipe({"drop_path_rate": 0})
        del cfg.optimizer[missing]
        with pytest.raises(RecipeError, match=rf"no optimizer\.{missing}"):
            find_keys(cfg, "r.py")


@pytest.mark.parametrize(
    ("override", "option"),
    [
        ("optimizer.lr=1", "use --lr"),
        ("optimizer={weight_decay: 0}", "use --weight-decay"),
        (f"{NET}=0.1", "use --drop-path"),
        ("train.output_dir=x", "use --output"),
        ("train.max_iter=3", "use --iterations or --epochs"),
    ],
)
def test_what_the_study_sets_cannot_be_set(override: str, option: str) -> None:
    with pytest.raises(RecipeError, match=option):
        refuse_own_keys([override], RecipeKeys(drop_path=NET))


def test_settings_ignore_what_cells_and_machines_differ_in() -> None:
    base = settings(load_recipe("quickstart"))
    keys = RecipeKeys(drop_path=NET)
    same = ["train.output_dir=elsewhere", "train.device=cpu", "train.checkpointer.period=1"]
    assert settings(load_recipe("quickstart", [*keys.overrides(CELL), *same])) == base


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.max_iter=20", r"train\.max_iter: 1250 -> 20"),
        ("train.seed=1", r"train\.seed: 0 -> 1"),
        ("model.backbone.net.depth=2", r"model\.backbone\.net\.depth: 4 -> 2"),
    ],
)
def test_other_settings_are_told(tmp_path: Path, override: str, told: str) -> None:
    base = settings(load_recipe("quickstart"))
    other = settings(load_recipe("quickstart", [override]))
    assert other.fingerprint != base.fingerprint
    with pytest.raises(RecipeError, match=f"study mine is of another recipe.*: {told}"):
        other.require_same(base.as_json(), "mine")
    base.require_same(base.as_json(), "mine")


def test_another_recipe_and_metric_are_told_in_short() -> None:
    base = settings(load_recipe("quickstart"))
    with pytest.raises(RecipeError, match=r"and \d+ more"):
        settings(load_recipe("vitdet_b")).require_same(base.as_json(), "mine")
    with pytest.raises(RecipeError, match='metric: "bbox/AP" -> "segm/AP"'):
        settings(load_recipe("quickstart"), "segm/AP").require_same(base.as_json(), "mine")

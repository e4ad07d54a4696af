# SPDX-License-Identifier: Apache-2.0
"""``train.memory_strategy`` on recipes with our ViT, and on one in Detectron2's own form."""

import pytest
from omegaconf import OmegaConf

from vitdet_d2.engine.memory_strategy import apply_memory_strategy
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.errors import RecipeError

WINDOWED = {
    "full": [],
    "windowed": list(range(12)),
    "hybrid": [0, 1, 3, 4, 6, 7, 9, 10],
    "checkpointed": [],
}


@pytest.mark.parametrize("strategy", WINDOWED)
@pytest.mark.parametrize("name", ["vitdet_b", "benchmark_vit_b_mae", "ablation/neck_sfp_b"])
@pytest.mark.parametrize("eval_only", [False, True])
def test_which_blocks_attend_in_windows(name, strategy, eval_only):
    cfg = load_recipe(name, [f"train.memory_strategy={strategy}"], eval_only=eval_only)
    net = cfg.model.backbone.net
    assert list(net.window_block_indexes) == WINDOWED[strategy]
    assert net.get("cross_window") is None
    assert cfg.train.activation_checkpointing is (strategy == "checkpointed")
    # A recipe that was saved with its strategy is loaded again.
    before = OmegaConf.to_container(cfg.model)
    apply_memory_strategy(cfg)
    assert OmegaConf.to_container(cfg.model) == before


def test_detectron2s_own_form():
    net = {"_target_": "detectron2.modeling.ViT", "window_size": 14, "depth": 24}
    cfg = OmegaConf.create(
        {"model": {"backbone": {"net": net}}, "train": {"memory_strategy": "hybrid"}}
    )
    apply_memory_strategy(cfg)
    windowed = [i for i in range(24) if i not in (5, 11, 17, 23)]
    assert cfg.model.backbone.net == {**net, "window_block_indexes": windowed}


@pytest.mark.parametrize(
    ("model", "strategy", "message"),
    [
        ({}, "half", "expected one of full, windowed, hybrid, checkpointed, got 'half'"),
        ({"a": {"_target_": "x.ResNet"}}, "full", "this recipe has none"),
        ({"a": {"_target_": "x.ViT"}, "b": {"_target_": "x.ViT"}}, "full", "this recipe has 2"),
        ({"a": {"_target_": "x.ViT"}}, "hybrid", "has no windows; set its window_size"),
        ({"a": {"_target_": "x.ViT", "window_size": 0}}, "windowed", "has no windows"),
    ],
)
def test_refusals(model, strategy, message):
    cfg = OmegaConf.create({"model": model, "train": {"memory_strategy": strategy}})
    with pytest.raises(RecipeError, match=message):
        apply_memory_strategy(cfg)

# SPDX-License-Identifier: Apache-2.0
"""AdamW from a yacs configuration: the groups of the ViTDet recipes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.layers import Conv2d, get_norm
from torch import nn

from tests.backbones.vit_case import TINY
from vitdet_d2.backbones import ViT, add_vitdet_config
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.errors import RecipeError
from vitdet_d2.solver import build_optimizer


class Detector(nn.Module):
    """A ViT with what its neck and head have."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.net = ViT(**TINY, residual_block_indexes=(1,), **options)
        self.head = Conv2d(2, 2, 1, norm=get_norm("LN", 2))


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_vitdet_config(cfg)
    solver = cfg.SOLVER
    solver.BASE_LR, solver.WEIGHT_DECAY, solver.LAYER_DECAY = 1.0, 0.1, 0.5
    solver.BETAS = (0.8, 0.95)
    return cfg


def settings(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[Any, ...]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_rates_and_decays_of_the_recipes(cfg: CfgNode) -> None:
    model = Detector()
    optimizer = build_optimizer(cfg, model)
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["betas"] == (0.8, 0.95)
    found = settings(optimizer, model)
    assert found.keys() == dict(model.named_parameters()).keys()
    # Three blocks: the head is layer 4, the embeddings layer 0.
    assert found["backbone.net.pos_embed"] == (0.5**4, 0.0)
    assert found["backbone.net.patch_embed.proj.weight"] == (0.5**4, 0.1)
    assert found["backbone.net.blocks.0.norm1.weight"] == (0.5**3, 0.0)
    assert found["backbone.net.blocks.2.attn.rel_pos_h"] == (0.5, 0.1)
    assert found["backbone.net.blocks.2.mlp.fc1.bias"] == (0.5, 0.1)
    # New layers learn at the full rate, and channel norms are decayed.
    assert found["backbone.net.blocks.1.residual.conv1.weight"] == (1.0, 0.1)
    assert found["head.norm.weight"] == (1.0, 0.1)


PARTS = {"layer_scale_init": 0.1, "qkv_bias": "qv", "pre_norm": True, "rel_pos_bias": "shared"}


def test_parts_of_pretrained_models(cfg: CfgNode) -> None:
    """As norms, biases and embeddings of a plain ViT."""
    cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.01, 0.02
    model = Detector(**PARTS)
    found = settings(build_optimizer(cfg, model), model)
    assert found["backbone.net.norm_pre.weight"] == (0.5**4, 0.01)
    assert found["backbone.net.rel_pos_bias_window"] == (1.0, 0.0)
    assert found["backbone.net.rel_pos_bias_global"] == (1.0, 0.0)
    assert found["backbone.net.blocks.2.ls1.gamma"] == (0.5, 0.01)
    assert found["backbone.net.blocks.2.attn.q_bias"] == (0.5, 0.02)
    assert found["backbone.net.blocks.2.attn.v_bias"] == (0.5, 0.02)
    assert found["backbone.net.blocks.2.attn.proj.bias"] == (0.5, 0.02)
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    found = settings(build_optimizer(cfg, model), model)
    assert found["backbone.net.blocks.2.attn.q_bias"] == (2.0, 0.02)
    assert found["backbone.net.blocks.2.attn.proj.bias"] == (2.0, 0.02)


def test_recipes_exempt_positions_and_factors() -> None:
    groups = load_recipe("vitdet_b").optimizer.params
    model = Detector(**PARTS)
    groups.model, groups.base_lr, groups.weight_decay = model, 1.0, 0.1
    groups.lr_factor_func.num_layers = 3
    optimizer = torch.optim.AdamW(instantiate(groups), lr=1.0)
    exempt = {name for name, (_, decay) in settings(optimizer, model).items() if decay == 0.0}
    leaves = {name.rpartition(".")[2] for name in exempt}
    tables = {"rel_pos_bias_window", "rel_pos_bias_global"}
    assert leaves == {"pos_embed", "weight", "bias", "gamma", *tables}
    assert "backbone.net.blocks.0.ls2.gamma" in exempt
    assert all("norm" in name for name in exempt if name.endswith(("weight", "bias")))


def test_nothing_is_exempt_for_h(cfg: CfgNode) -> None:
    cfg.SOLVER.WEIGHT_DECAY_NORM = cfg.SOLVER.WEIGHT_DECAY_POS_EMBED = None
    model = Detector(**PARTS)
    assert {decay for _, decay in settings(build_optimizer(cfg, model), model).values()} == {0.1}


def test_without_layer_decay_no_vit_is_needed(cfg: CfgNode) -> None:
    cfg.SOLVER.LAYER_DECAY = 1.0
    cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.WEIGHT_DECAY_BIAS = 2.0, 0.0
    model = nn.Linear(2, 2)
    found = settings(build_optimizer(cfg, model), model)
    assert found == {"weight": (1.0, 0.1), "bias": (2.0, 0.0)}


def test_clipping_before_the_step(cfg: CfgNode) -> None:
    cfg.SOLVER.LAYER_DECAY = 1.0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = "norm", 0.5
    model = nn.Linear(2, 1, bias=False)
    optimizer = build_optimizer(cfg, model)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer.step()
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.3, 0.4]]))


def test_sgd_is_detectron2s(cfg: CfgNode) -> None:
    cfg.SOLVER.OPTIMIZER = "sgd"
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.defaults["momentum"] == 0.9


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("OPTIMIZER", "LION", r"SOLVER\.OPTIMIZER: expected one of ADAMW, SGD, got 'LION'"),
        ("LAYER_DECAY", 0.9, r"LAYER_DECAY: expected 1\.0 for a model without a ViT"),
    ],
)
def test_wrong_keys(cfg: CfgNode, key: str, value: Any, message: str) -> None:
    cfg.SOLVER[key] = value
    with pytest.raises(RecipeError, match=message):
        build_optimizer(cfg, nn.Linear(1, 1))


def test_rate_out_of_range(cfg: CfgNode) -> None:
    cfg.SOLVER.LAYER_DECAY = 1.5
    with pytest.raises(RecipeError, match=r"SOLVER\.LAYER_DECAY: .*0 < lr_decay_rate <= 1"):
        build_optimizer(cfg, Detector())


def test_missing_keys() -> None:
    with pytest.raises(RecipeError, match=r"OPTIMIZER, .* missing; call .*add_vitdet_config"):
        build_optimizer(get_cfg(), nn.Linear(1, 1))

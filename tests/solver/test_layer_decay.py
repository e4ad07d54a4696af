# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params
from omegaconf import OmegaConf
from torch import nn

from vitdet_d2.engine.build import build_optimizer
from vitdet_d2.errors import RecipeError
from vitdet_d2.solver import get_vit_lr_decay_rate, layer_decay

WITH_BLOCKS = nn.ModuleDict(
    {"backbone": nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(2, 2) for _ in range(3))})}
)
WITHOUT_BLOCKS = nn.ModuleDict({"backbone": nn.ModuleDict({"block1": nn.Linear(2, 2)})})


@pytest.mark.parametrize(
    ("name", "exponent"),
    [
        ("backbone.net.pos_embed", 13),
        ("backbone.net.patch_embed.proj.weight", 13),
        ("backbone.net.norm_pre.weight", 13),
        ("backbone.net.rel_pos_bias_window", 0),
        ("backbone.net.blocks.0.attn.qkv.weight", 12),
        ("backbone.net.blocks.11.ls1.gamma", 1),
        ("backbone.net.blocks.1.attn.q_bias", 11),
        ("backbone.net.blocks.1.attn.relative_position_bias_table", 11),
        ("backbone.net.blocks.11.norm2.bias", 1),
        ("backbone.blocks.10.mlp.fc1.bias", 2),
        ("backbone.net.blocks.2.residual.conv1.weight", 0),
        ("backbone.simfp_2.0.weight", 0),
        ("roi_heads.blocks.1.weight", 0),
        ("proposal_generator.rpn_head.conv.weight", 0),
    ],
)
def test_factor_of_each_layer(name, exponent):
    assert get_vit_lr_decay_rate(name, lr_decay_rate=0.5, num_layers=12) == 0.5**exponent
    assert layer_decay(lr_decay_rate=0.5, num_layers=12)(name) == 0.5**exponent


def test_default_is_no_decay():
    assert get_vit_lr_decay_rate("backbone.net.pos_embed") == 1.0


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_rate_out_of_range_raises(rate):
    with pytest.raises(ValueError, match="expected 0 < lr_decay_rate <= 1"):
        layer_decay(rate, 12)


def _optimizer(num_layers: int, rate: float = 0.5):
    groups = L(get_default_optimizer_params)(
        base_lr="${..lr}", lr_factor_func=L(layer_decay)(lr_decay_rate=rate, num_layers=num_layers)
    )
    return OmegaConf.create({"optimizer": L(torch.optim.AdamW)(params=groups, lr=1.0)})


def test_backbone_without_numbered_blocks_is_refused():
    with pytest.raises(RecipeError, match=r"layer decay of 0\.5 .* numbered .*lr_factor_func=null"):
        build_optimizer(_optimizer(num_layers=12), WITHOUT_BLOCKS)
    rates = {
        group["lr"] for group in build_optimizer(_optimizer(12, 1.0), WITHOUT_BLOCKS).param_groups
    }
    assert rates == {1.0}


@pytest.mark.parametrize(("num_layers", "warned"), [(3, False), (12, True), (2, True)])
def test_another_depth_is_said(num_layers, warned, caplog):
    optimizer = build_optimizer(_optimizer(num_layers), WITH_BLOCKS)
    last = max(group["lr"] for group in optimizer.param_groups)
    assert last == 0.5 ** (num_layers - 2)
    text = f"learns at {last:.3g} of the full rate in place of 0.5; set"
    assert (text in caplog.text and "num_layers=3" in caplog.text) == warned

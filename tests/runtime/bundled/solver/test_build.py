# SPDX-License-Identifier: Apache-2.0
"""Optimizer groups: contents and order, by hand and as Detectron2 makes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import reduce_param_groups
from torch import nn


class Toy(nn.Module):
    """A norm of torch's, one that is not, a shared layer and a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(3))
        self.first = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.conv = Conv2d(3, 4, 1, norm=get_norm("LN", 4))
        self.again = self.first
        self.frozen = nn.Linear(3, 1, bias=False).requires_grad_(False)


def describe(groups: list[dict[str, Any]], model: nn.Module) -> list[tuple[dict, list[str]]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        (
            {key: value for key, value in group.items() if key != "params"},
            [names[id(parameter)] for parameter in group["params"]],
        )
        for group in groups
    ]


ALL = ["pos_embed", "first.weight", "first.bias", "norm.weight", "norm.bias"]
ALL += ["conv.weight", "conv.bias", "conv.norm.weight", "conv.norm.bias"]


def test_one_group_where_all_are_alike() -> None:
    model = Toy()
    assert describe(get_default_optimizer_params(model), model) == [({}, ALL)]
    groups = get_default_optimizer_params(model, base_lr=0.1, weight_decay=0.2)
    assert describe(groups, model) == [({"lr": 0.1, "weight_decay": 0.2}, ALL)]


def test_norm_decay_leaves_the_channel_norm_alone() -> None:
    model = Toy()
    groups = get_default_optimizer_params(model, weight_decay=0.2, weight_decay_norm=0.0)
    assert describe(groups, model) == [
        ({"weight_decay": 0.2}, [name for name in ALL if not name.startswith("norm.")]),
        ({"weight_decay": 0.0}, ["norm.weight", "norm.bias"]),
    ]


def test_bias_rules_and_overrides_win_last() -> None:
    model = Toy()
    overrides = {"pos_embed": {"weight_decay": 0.0}}
    groups = get_default_optimizer_params(
        model, base_lr=0.1, bias_lr_factor=2.0, weight_decay_bias=0.5, overrides=overrides,
        weight_decay_norm=0.0,
    )  # fmt: skip
    # Measured on detectron2 02b5c4e.
    assert describe(groups, model) == [
        ({"lr": 0.1, "weight_decay": 0.0}, ["pos_embed", "norm.weight"]),
        ({"lr": 0.1}, ["first.weight", "conv.weight", "conv.norm.weight"]),
        ({"lr": 0.2, "weight_decay": 0.5}, [n for n in ALL if n.endswith("bias")]),
    ]


def test_arguments_stay_as_they_are() -> None:
    overrides = {"pos_embed": {"weight_decay": 0.0}}
    get_default_optimizer_params(Toy(), weight_decay_bias=0.5, overrides=overrides)
    assert overrides == {"pos_embed": {"weight_decay": 0.0}}


def test_factor_by_name_sees_full_names() -> None:
    model = nn.Sequential(Toy())
    seen = []

    def factor(name: str) -> float:
        seen.append(name)
        return 0.5 if "conv" in name else 1.0

    groups = get_default_optimizer_params(model, base_lr=0.1, lr_factor_func=factor)
    assert seen == [f"0.{name}" for name in ALL]
    assert [group["lr"] for group in groups] == [0.1, 0.05]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bias_lr_factor": 2.0}, "bias_lr_factor .*base_lr"),
        ({"lr_factor_func": len}, "lr_factor_func .*base_lr"),
        ({"weight_decay_bias": 0.1, "overrides": {"bias": {"lr": 1.0}}}, "bias"),
    ],
)
def test_contradictions_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_default_optimizer_params(Toy(), **arguments)


def test_merging_lets_later_groups_win() -> None:
    model = Toy()
    p = list(model.parameters())
    merged = reduce_param_groups(
        [
            {"params": p[:3], "lr": 1.0, "wd": 0.0},
            {"params": p[2:5], "lr": 2.0},
            {"params": p[:1], "wd": 1.0},
        ]
    )
    # Measured on detectron2 02b5c4e.
    assert describe(merged, model) == [
        ({"lr": 1.0, "wd": 1.0}, ALL[:1]),
        ({"lr": 1.0, "wd": 0.0}, ALL[1:2]),
        ({"lr": 2.0, "wd": 0.0}, ALL[2:3]),
        ({"lr": 2.0}, ALL[3:5]),
    ]


def test_merging_keeps_names_beside_their_parameters() -> None:
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    merged = reduce_param_groups(
        [
            {"params": [a, b], "param_names": ["a", "b"], "lr": 1.0},
            {"params": [c], "param_names": ["c"], "lr": 1.0},
        ]
    )
    assert len(merged) == 1
    assert merged[0]["param_names"] == ["a", "b", "c"]
    assert [id(x) for x in merged[0]["params"]] == [id(a), id(b), id(c)]

# SPDX-License-Identifier: Apache-2.0
"""The Swin and MViTv2 recipes against Detectron2's official ones, for a checkout on the path.

Their backbones have other names for the same parameters: those are compared by the key table.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

from tests.parity.test_recipes import CHECKOUT, OFFICIAL, ROOT, assert_same, build, plain
from vitdet_d2 import runtime
from vitdet_d2.pretrained.key_table import rename
from vitdet_d2.pretrained.timm_tables import detectron2_table
from vitdet_d2.zoo import RELEASED

ROWS = {row.name: row for row in RELEASED if row.backbone != "vitdet"}
BOTTOM_UP = "backbone.bottom_up."

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(
        runtime.current().name != "installed" or not OFFICIAL.is_dir(),
        reason="no checkout of Detectron2 with its projects is installed",
    ),
    # timm's old module names, meshgrid without indexing.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module", params=list(ROWS))
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Give our recipe and the official one."""
    stand_in = types.SimpleNamespace(resource_filename=lambda _, path: str(CHECKOUT / path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pkg_resources", stand_in)
        official = LazyConfig.load(str(OFFICIAL / f"{ROWS[request.param].aliases[1]}.py"))
    return LazyConfig.load(str(ROOT / f"projects/{request.param}.py")), official


@pytest.fixture(scope="module")
def built(pair: tuple[Any, Any]) -> list[tuple[nn.Module, torch.optim.Optimizer]]:
    ours, theirs = pair
    # It needs another package; what it changes is memory alone.
    theirs.model.backbone.bottom_up.pop("use_act_checkpoint", None)
    return [build(ours), build(theirs)]


def our_names(model: nn.Module, theirs: dict[str, torch.Tensor]) -> dict[str, str]:
    """Return our name of each of Detectron2's parameters."""
    bottom_up: Any = model.get_submodule(BOTTOM_UP[:-1])
    table = detectron2_table(bottom_up)
    assert table is not None
    found = {}
    for name, value in theirs.items():
        rest = name.removeprefix(BOTTOM_UP)
        if rest == name:
            found[name] = name
        else:
            (place,) = rename({rest: value}, table).tensors
            found[name] = BOTTOM_UP + place
    return found


def test_everything_but_the_backbone(pair: tuple[Any, Any]) -> None:
    ours, theirs = (plain(cfg.model) for cfg in pair)
    bottoms = []
    for _, arguments in (ours, theirs):
        _, pyramid = arguments["backbone"]
        bottoms.append(pyramid.pop("bottom_up")[1])
        assert len(pyramid.pop("in_features")) == 4
    assert_same(ours, theirs, "model")
    mine, wanted = bottoms
    assert mine["drop_path_rate"] == wanted["drop_path_rate"]
    assert mine["use_act_checkpoint"] == wanted.get("use_act_checkpoint", False)


def test_parameters_and_optimizer_groups(built: Any) -> None:
    (our_model, our_optimizer), (their_model, their_optimizer) = built
    theirs = dict(their_model.named_parameters())
    ours = dict(our_model.named_parameters())
    names = our_names(our_model, theirs)
    assert {names[k]: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}
    found, expected = (
        {
            by_id[id(parameter)]: {k: v for k, v in group.items() if k != "params"}
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for optimizer, by_id in (
            (our_optimizer, {id(p): name for name, p in ours.items()}),
            (their_optimizer, {id(p): names[name] for name, p in theirs.items()}),
        )
    )
    assert found == expected
    assert len({group["weight_decay"] for group in expected.values()}) == 2


def test_drop_path_and_norms(built: Any) -> None:
    (our_model, _), (their_model, _) = built
    rates = [
        sorted({m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"})
        for model in (our_model, their_model)
    ]
    assert rates[0] == pytest.approx(rates[1])
    assert len(rates[0]) > 20
    epsilons = [
        {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)}
        for model in (our_model, their_model)
    ]
    assert epsilons[0] == epsilons[1]


def test_learning_rates(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    last = theirs.train.max_iter
    assert ours.train.max_iter == last
    our_rate, their_rate = instantiate(ours.lr_multiplier), instantiate(theirs.lr_multiplier)
    milestones = list(theirs.lr_multiplier.scheduler.milestones)
    near = {m + d for m in [0, 125, 250, last, *milestones] for d in range(-3, 4)}
    for i in sorted(i for i in {*near, *range(0, last, 97)} if 0 <= i < last):
        assert our_rate(i / last) == their_rate(i / last), i
    assert our_rate(1 - 1 / last) == pytest.approx(0.01)


def test_data_and_training(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    lvis = "sampler" in theirs.dataloader.train
    for part in ("train.mapper", "train.dataset", *(["train.sampler"] if lvis else []), "test"):
        our_part, their_part = ours.dataloader, theirs.dataloader
        for key in part.split("."):
            our_part, their_part = our_part[key], their_part[key]
        assert_same(plain(our_part), plain(their_part), part)
    assert ours.dataloader.train.total_batch_size == theirs.dataloader.train.total_batch_size
    for key in ("init_checkpoint", "eval_period", "checkpointer", "ddp", "log_period"):
        assert plain(ours.train[key]) == plain(theirs.train[key]), key
    assert ours.train.amp.enabled == theirs.train.amp.enabled

# SPDX-License-Identifier: Apache-2.0
"""Changes of a recipe from the command line."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from detectron2.config import LazyCall
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vitdet_d2.backbones import ViT
from vitdet_d2.engine.overrides import all_keys, apply_overrides, given_keys
from vitdet_d2.errors import RecipeError


@pytest.fixture
def cfg() -> DictConfig:
    return DictConfig(
        {
            "train": {
                "max_iter": 10, "output_dir": "./out", "amp": {"enabled": True, "dtype": "bf16"},
                "seed": None, "lr": 0.1, "same_lr": "${.lr}",
            },
            "model": LazyCall(nn.Conv2d)(
                in_channels=3, norm=partial(nn.LayerNorm, eps=1e-6), size=[1, 2],
                inner=LazyCall(nn.Linear)(in_features=1, out_features="${..in_channels}"),
            ),
            "steps": [{"prob": 0.5, "sizes": [1, 2]}, {"prob": 0.7}],
            "shared": "${train.amp}",
            "topk": (20, 10),
        },
        flags={"allow_objects": True},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.max_iter=5", "train.max_iter", 5),
        ("train.lr=1e-4", "train.lr", 1e-4),
        ("train.lr=1", "train.lr", 1),
        ("train.output_dir=./a=b=c", "train.output_dir", "./a=b=c"),
        ("train.output_dir=2024", "train.output_dir", "2024"),
        ("train.output_dir=007", "train.output_dir", "007"),
        ("train.output_dir=", "train.output_dir", ""),
        ("train.amp.enabled=False", "train.amp.enabled", False),
        ("train.amp={enabled: false}", "train.amp", {"enabled": False, "dtype": "bf16"}),
        ("train.seed=3", "train.seed", 3),
        ("train.same_lr=0.5", "train.same_lr", 0.5),
        ("train.lr=${train.max_iter}", "train.lr", 10),
        ("steps.0.prob=0.25", "steps.0.prob", 0.25),
        ("steps.0.sizes.1=9", "steps.0.sizes", [1, 9]),
        ("steps=[]", "steps", []),
        ("model.size=[4]", "model.size", [4]),
        ("topk=[4, 2]", "topk", (4, 2)),
        ("topk.1=5", "topk", (20, 5)),
        ("~topk.0", "topk", (10,)),
        ("model.norm=null", "model.norm", None),
        ("model.inner._target_=torch.nn.Bilinear", "model.inner._target_", "torch.nn.Bilinear"),
        ("model.inner.out_features=7", "model.inner.out_features", 7),
        ("+train.new=[a, 1]", "train.new", ["a", 1]),
        ("+train.a.b.c=1", "train.a", {"b": {"c": 1}}),
        ("+steps.2={prob: 1}", "steps.2.prob", 1),
        ("+model.inner.bias=false", "model.inner.bias", False),
        ("~train.seed", "train", None),
        ("~steps.0", "steps", [{"prob": 0.7}]),
    ],
)
def test_accepted(cfg: DictConfig, override: str, key: str, value: Any) -> None:
    apply_overrides(cfg, [override])
    found = OmegaConf.select(cfg, key)
    if override == "~train.seed":
        assert "seed" not in found
        return
    assert (tuple(found) if isinstance(value, tuple) else found) == value
    assert not isinstance(value, str | bool) or type(found) is type(value)


REFUSED = {
    "train.max_itr=5": r"no key 'train.max_itr'; did you mean 'train.max_iter'\? \(\+train.max_itr",
    "max_iter=5": r"did you mean 'train.max_iter'\?",
    "lr=3": r"did you mean 'train.lr'\?",
    "zzzzqqq=3": r"the recipe has no key 'zzzzqqq' \(\+zzzzqqq=3 adds",
    "train.lr.x=1": "no key 'train.lr.x'",
    "~train.sed": r"did you mean 'train.seed'\?$",
    "~train.seed=1": "a deletion has no value; write ~train.seed",
    "+train.lr=1": "train.lr exists; write train.lr=1",
    "+train.lr.x=1": "'lr' on the way holds a plain value",
    "+steps.7=1": "a new list item must have the number 2, got 7",
    "steps.5.prob=1": "steps is a list of 2 items, numbered from 0",
    "steps.-1.prob=1": "steps is a list of 2 items",
    "foo": r"must be key=value, \+key=value \(a new key\) or ~key",
    "=3": "'' is not a key",
    "a..b=1": "'a..b' is not a key",
    "train.lr=[1": "the value is not readable",
    "train.max_iter=abc": "train.max_iter is an integer and cannot become 'abc'",
    "train.max_iter=true": "is an integer and cannot become True",
    "train.lr=high": "train.lr is a number and cannot become 'high'",
    "train.amp.enabled=1": "train.amp.enabled is true or false and cannot become 1",
    "train.amp=5": "train.amp is a mapping and cannot become 5",
    "train.amp={enabld: true}": "train.amp has no key 'enabld'",
    "train.output_dir=[1]": "train.output_dir is a text and cannot become",
    "model=5": "model is a call and cannot become 5",
    "model.inner=[1]": "model.inner is a call and cannot become",
    "model.norm=LN": "model.norm is an object that only a recipe file can make and cannot become",
    "model._target_=5": "model._target_ must be the dotted name of a class or function",
    "model._target_=torch.nn.Conv9d": "there is no torch.nn.Conv9d",
    "model._target_=math.pi": "math.pi is not a class or function",
    "steps=3": "steps is a list and cannot become 3",
    "topk=3": "topk is a list and cannot become 3",
    "topk.2=3": "topk is a list of 2 items, numbered from 0",
}


@pytest.mark.parametrize("override", REFUSED)
def test_refused_with_the_override_named(cfg: DictConfig, override: str) -> None:
    before = OmegaConf.to_container(cfg)
    with pytest.raises(RecipeError, match=REFUSED[override]) as caught:
        apply_overrides(cfg, [override])
    assert f"override {override!r}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert OmegaConf.to_container(cfg) == before


def test_activation_checkpointing_becomes_selective_and_nothing_else() -> None:
    cfg = DictConfig({"train": {"activation_checkpointing": False, "compile": False}})
    for value in ("selective", True, "selective", False):
        for text in (
            f"train.activation_checkpointing={value}",
            f"train={{activation_checkpointing: {value}}}",
        ):
            apply_overrides(cfg, [text])
            assert cfg.train.activation_checkpointing == value
    for wrong in ("activation_checkpointing=selectiv", "compile=selective"):
        with pytest.raises(RecipeError, match=f"{wrong}': .* is true or false and cannot become"):
            apply_overrides(cfg, [f"train.{wrong}"])


def test_true_or_false_becomes_a_text_where_the_call_takes_it() -> None:
    cfg = DictConfig({"net": LazyCall(ViT)(qkv_bias=True, use_rel_pos=True)})
    for value in ("qv", False, "qv", True):
        apply_overrides(cfg, [f"net.qkv_bias={value}"])
        assert cfg.net.qkv_bias is value or cfg.net.qkv_bias == value == "qv"
    for wrong in ("qkv_bias=qw", "qkv_bias=1", "use_rel_pos=qv"):
        with pytest.raises(RecipeError, match=f"{wrong}': .* is true or false and cannot become"):
            apply_overrides(cfg, [f"net.{wrong}"])
    cfg.net._target_ = "not.there"
    with pytest.raises(RecipeError, match="is true or false and cannot become 'qv'"):
        apply_overrides(cfg, ["net.qkv_bias=qv"])


def test_order_counts(cfg: DictConfig) -> None:
    apply_overrides(cfg, ["+train.x=1", "train.x=2", "~train.lr", "+train.lr=7"])
    assert (cfg.train.x, cfg.train.lr) == (2, 7)


def test_a_call_can_be_replaced_by_a_call(cfg: DictConfig) -> None:
    apply_overrides(cfg, ["model.inner={_target_: torch.nn.Identity}"])
    assert OmegaConf.to_container(cfg.model.inner) == {"_target_": "torch.nn.Identity"}


def test_all_keys_reach_into_lists_and_stop_at_references(cfg: DictConfig) -> None:
    keys = list(all_keys(cfg))
    assert "steps.0.sizes.1" in keys
    assert "shared" in keys
    assert "shared.enabled" not in keys


def test_a_tuple_takes_a_list_and_is_replaced_as_a_whole() -> None:
    cfg = OmegaConf.create({"scales": (4.0, 2.0)})
    apply_overrides(cfg, ["scales=[1.0]"])
    assert list(cfg.scales) == [1.0]
    assert type(cfg.scales) is type(OmegaConf.create({"of": (1,)}).of)
    with pytest.raises(RecipeError, match="scales"):
        apply_overrides(cfg, ["scales=2"])


def test_given_keys_reach_into_mappings_and_leave_deletions_out() -> None:
    texts = ["a.b=1", "+c={d: 2, e: {f: 3}}", "~g", "h=[1, 2]"]
    assert given_keys(texts) == {"a.b", "c.d", "c.e.f", "h"}

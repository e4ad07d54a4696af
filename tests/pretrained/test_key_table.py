# SPDX-License-Identifier: Apache-2.0
"""Key tables: every key is renamed, joined, dropped by name, or unknown."""

from __future__ import annotations

import pytest
import torch

from vitdet_d2.pretrained.key_table import (
    KEYS_AND_VALUES,
    Halves,
    KeyTable,
    Part,
    Take,
    matches_any,
    rename,
)

TABLE: KeyTable = {
    "layer.{n}.norm.{rest}": "blocks.{n}.norm1.{rest}",
    "layer.{n}.query.{rest}": Part("blocks.{n}.attn.qkv.{rest}", 0),
    "layer.{n}.key.{rest}": Part("blocks.{n}.attn.qkv.{rest}", 1),
    "layer.{n}.value.{rest}": Part("blocks.{n}.attn.qkv.{rest}", 2),
    "kernel": Take("weight", lambda value: value.t()),
    "head.{rest}": None,
}


def test_every_key_has_one_fate() -> None:
    state = {
        "layer.11.norm.weight": torch.ones(2),
        "kernel": torch.arange(6.0).reshape(2, 3),
        "head.weight": torch.ones(1),
        "layer.x.norm.weight": torch.ones(2),
        "header.weight": torch.ones(1),
    }
    result = rename(state, TABLE)
    assert list(result.tensors) == ["blocks.11.norm1.weight", "weight"]
    assert torch.equal(result.tensors["weight"], torch.tensor([[0.0, 3], [1, 4], [2, 5]]))
    assert result.dropped == ["head.weight"]
    assert result.unknown == ["layer.x.norm.weight", "header.weight"]
    assert not result.problems


def test_parts_are_joined_in_the_order_of_the_matrix() -> None:
    state = {
        f"layer.0.{part}.{kind}": torch.full((1, 2) if kind == "weight" else (1,), float(i))
        for i, part in ((1, "key"), (2, "value"), (0, "query"))
        for kind in ("weight", "bias")
    }
    result = rename(state, TABLE)
    assert result.tensors["blocks.0.attn.qkv.weight"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert result.tensors["blocks.0.attn.qkv.bias"].tolist() == [0, 1, 2]
    assert not result.zero_key_biases


def test_keys_without_a_bias_have_zeros_and_without_a_matrix_are_a_problem() -> None:
    result = rename({f"layer.0.{p}.bias": torch.ones(2) for p in ("query", "value")}, TABLE)
    assert result.tensors["blocks.0.attn.qkv.bias"].tolist() == [1, 1, 0, 0, 1, 1]
    assert result.zero_key_biases == ["blocks.0.attn.qkv.bias"]
    result = rename({f"layer.0.{p}.weight": torch.ones(2, 2) for p in ("query", "value")}, TABLE)
    assert result.problems == ["blocks.0.attn.qkv.weight: the file has no part for the keys"]
    result = rename({"layer.0.value.bias": torch.ones(2)}, TABLE)
    assert result.problems == [
        "blocks.0.attn.qkv.bias: the file has no part for the queries and the keys"
    ]


def test_halves_are_two_of_ours() -> None:
    table: KeyTable = {"{n}.in.{rest}": Halves("blocks.{n}.w1.{rest}", "blocks.{n}.w2.{rest}")}
    tensors = rename({"3.in.bias": torch.arange(4)}, table).tensors
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "blocks.3.w1.bias": [0, 1],
        "blocks.3.w2.bias": [2, 3],
    }


def test_two_keys_for_one_name_are_a_problem() -> None:
    table: KeyTable = {"a": "x", "b": "x", "q": Part("x", 0), "k": Part("x", 1), "v": Part("x", 2)}
    one = torch.ones(1)
    assert rename({"a": one, "b": one}, table).problems == ["b: another key gives x already"]
    assert rename({"a": one, "q": one, "k": one, "v": one}, table).problems == [
        "x: given in one piece and in parts"
    ]


def test_tables_work_without_data() -> None:
    state = {f"layer.0.{p}.bias": torch.ones(2, device="meta") for p in ("query", "value")}
    joined = rename(state, TABLE).tensors["blocks.0.attn.qkv.bias"]
    assert (joined.device.type, joined.shape) == ("meta", (6,))


def test_patterns() -> None:
    assert matches_any("predictor.0.weight", ("x.{rest}", "predictor.{rest}"))
    assert not matches_any("predictor", ("predictor.{rest}",))
    assert not matches_any("ls1_gamma", ("ls1.gamma",)), "a point is a point"
    with pytest.raises(ValueError, match="expected the fields n, m and rest"):
        matches_any("a", ("{name}",))


def test_keys_and_values_alone_are_joined_in_this_order() -> None:
    table: KeyTable = {
        "key.{rest}": Part("kv.{rest}", 1, parts=KEYS_AND_VALUES),
        "value.{rest}": Part("kv.{rest}", 2, parts=KEYS_AND_VALUES),
    }
    both = rename({"value.weight": torch.ones(1, 2), "key.weight": torch.zeros(1, 2)}, table)
    assert both.tensors["kv.weight"].tolist() == [[0, 0], [1, 1]]
    assert not both.problems
    half = rename({"value.bias": torch.ones(1)}, table)
    assert half.problems == ["kv.bias: the file has no part for the keys"]
    assert not half.zero_key_biases

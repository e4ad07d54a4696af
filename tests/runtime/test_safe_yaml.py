# SPDX-License-Identifier: Apache-2.0
"""YAML that runs nothing, and values as people type them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from vitdet_d2.runtime.safe_yaml import load_yaml, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5), ("-1", -1), ("0.5", 0.5), ("1e-4", 1e-4), ("2E3", 2000.0), (".5", 0.5),
        ("1.", 1.0), (".inf", math.inf), ("true", True), ("False", False), ("null", None),
        ("~", None), ("", ""), ("abc", "abc"), ("'5'", "5"), ("./runs/a-b", "./runs/a-b"),
        ("a=b=c", "a=b=c"), ("C:\\x", "C:\\x"), ("[1, 2e-1, x]", [1, 0.2, "x"]),
        ("{a: 1, b: [c]}", {"a": 1, "b": ["c"]}), ("${..lr}", "${..lr}"), ("a: b", {"a": "b"}),
        ("detectron2://x.pth?m=True", "detectron2://x.pth?m=True"), ("a: b: c", "a: b: c"),
        ("1_000", 1000), ("e5", "e5"), ("model_0e", "model_0e"),
    ],
)  # fmt: skip
def test_values_are_what_they_look_like(text: str, value: Any) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["[1, 2", "{a: 1", "'open"])
def test_unclosed_brackets_are_errors(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=r"expected|found"):
        parse_value(text)


def test_tags_that_run_code_are_refused_with_their_line() -> None:
    text = "a: 1\nb: !!python/object/apply:os.system ['exit 3']\n"
    with pytest.raises(ValueError, match=r"recipe.yaml:2: could not determine a constructor"):
        load_yaml(text, "recipe.yaml")


def test_arithmetic_of_detectron2s_files_is_computed() -> None:
    text = 'SIZES: !!python/object/apply:eval ["[[x, x * 2**(1.0/3)] for x in [32, 64]]"]\n'
    assert load_yaml(text, "f") == {"SIZES": [[x, x * 2 ** (1.0 / 3)] for x in (32, 64)]}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("__import__('os').getcwd()", "expected numbers, lists and arithmetic"),
        ("x", "expected numbers, lists and arithmetic, got 'x'"),
        ("True", "expected numbers, lists and arithmetic, got 'True'"),
        ("1 +", "has no value"),
        ("1 / 0", "has no value: division by zero"),
        ("2 ** 999", "expected an exponent up to 64, got 999"),
        ("((9**15)**60)**60", "no real number up to 1e"),
        ("(-1) ** 0.5", "no real number"),
        ("[1] * 9", r"expected a number, got '\[1\]'"),
        ("-[1]", "expected a number"),
        ("[x for x in 3]", "expected a list, got '3'"),
        ("[x for x in [1] if x]", "without conditions"),
        ("[[y for y in [1]] for x in [1]]", "one comprehension over one list"),
        ("1" * 501, "expected at most 500 characters, got 501"),
    ],
)
def test_what_is_no_arithmetic_is_refused_with_its_line(argument: str, message: str) -> None:
    text = f'a: 1\nb: !!python/object/apply:eval ["{argument}"]\n'
    with pytest.raises(ValueError, match=f"f:2: a computed value .*{message}"):
        load_yaml(text, "f")


def test_repeated_key_is_refused_and_merge_is_not() -> None:
    with pytest.raises(ValueError, match="f:1: found the key 'a' twice"):
        load_yaml("a: 1\na: 2\n", "f")
    assert load_yaml("x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}\n", "f")["y"] == {"a": 3, "b": 2}


def test_tuples_of_detectron2_become_lists() -> None:
    assert load_yaml("betas: !!python/tuple [0.9, 0.999]\n", "f") == {"betas": [0.9, 0.999]}

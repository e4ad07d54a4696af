# SPDX-License-Identifier: Apache-2.0
"""What files say of themselves is checked: damage is told, and hostile values end in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vitdet_d2.backbones import ViT
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained import convert, load, vit_options, write_weights
from vitdet_d2.pretrained.entry import KEY, MAX_CHARACTERS, read_entry

DEEP = "[" * 100_000
HUGE = 10**5000


def vit() -> ViT:
    return ViT(
        img_size=32, pretrain_img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3
    )  # fmt: skip


@pytest.fixture
def encoder(tmp_path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    torch.save(vit().state_dict(), tmp_path / "in.pth")
    converted = convert(tmp_path / "in.pth", source="mae")
    return converted.tensors, converted.entry


WRONG_VALUES: list[Any] = [
    None, True, -1, HUGE, float("nan"), float("inf"), "", "\x1b[2J", "x" * 2000, [], {}, [1, 2],
    {"act": "gelu"}, [HUGE] * 3, [float("nan")] * 3, torch.ones(3), [[[]]],
]  # fmt: skip
# What these facts may be.
ALLOWED = {
    "source": [""], "title": [""], "num_heads": [None], "normalisation": [None],
    "patch_is_final": [None, ""], "notes": [[]], "schema": [], "num_prefix": [], "needs": [],
}  # fmt: skip


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("name", list(ALLOWED))
def test_wrong_values_of_an_encoders_entry_end_in_one_error(
    name: str, encoder: tuple[dict[str, Tensor], dict[str, Any]]
) -> None:
    tensors, entry = encoder
    model = vit()
    for value in WRONG_VALUES:
        if any(same(value, allowed) for allowed in ALLOWED[name]):
            continue
        content = {"model": dict(tensors), KEY: {**entry, name: value}}
        with pytest.raises(WeightsError, match=rf"is damaged: .*{name}.*--source NAME"):
            load(model, "in.pth", content=content)


@pytest.mark.parametrize("path", [("needs", "act"), ("needs", "eps"), ("needs", "rope"),
                                  ("normalisation", "mean"), ("normalisation", "std")])  # fmt: skip
def test_wrong_values_within_are_found(
    path: tuple[str, str], encoder: tuple[dict[str, Tensor], dict[str, Any]]
) -> None:
    tensors, entry = encoder
    for value in WRONG_VALUES:
        if path[1] == "rope" and value is None:
            continue
        changed = copy.deepcopy(entry)
        changed[path[0]][path[1]] = value
        with pytest.raises(WeightsError, match=f"is damaged: {path[0]} is a dict"):
            load(vit(), "in.pth", content={"model": dict(tensors), KEY: changed})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("thing_classes", [5, "ant", [1], [None], {"a": 1}]),
        ("dataset_ids", [5, "1", ["1"], [HUGE], [1.5]]),
        ("recipe", [5, "{", "[]", DEEP, ["{}"]]),
        ("pixel_mean", [5, [1, 2], ["a"] * 3, [float("nan")] * 3, None]),
        ("pixel_std", [[0, 1, 1], [-1.0] * 3, [HUGE] * 3]),
        ("input_format", [5, "XYZ", None]),
    ],
)
def test_wrong_values_of_a_detectors_entry(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(WeightsError, match=f"is damaged: {name} is .*; get the file again"):
            read_entry("in.pth", {"model": {}, KEY: {"schema": 1, name: value}})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("{", "no JSON"),
        (DEEP, "no JSON"),
        (f"[{'1' * 5000}]", "no JSON"),
        ("x" * (MAX_CHARACTERS + 1), f"{MAX_CHARACTERS + 1} characters, more than"),
        ("[1]", "expected a dictionary, got list"),
        (5, "expected a dictionary, got int"),
        ({"schema": 2}, "schema 2, of a newer version; this one reads 1: upgrade"),
        ({"schema": "1"}, "schema is '1'"),
    ],
)
def test_texts_that_are_no_entry(raw: Any, words: str) -> None:
    with pytest.raises(
        WeightsError, match=f"in.pth: its entry 'vitdet_d2'.* is damaged: .*{words}"
    ):
        read_entry("in.pth", {"model": {}, KEY: raw})
    if isinstance(raw, str):
        with pytest.raises(WeightsError, match=words):
            read_entry("in.pth", {"__metadata__": {KEY: raw}})


def test_an_encoders_entry_is_whole() -> None:
    words = "it has no title, num_prefix, num_heads, needs"
    with pytest.raises(WeightsError, match=words):
        read_entry("in.pth", {KEY: {"schema": 1, "source": "mae"}})


def test_files_of_others_have_no_entry() -> None:
    assert read_entry("in.pth", {"model": {}}) is None
    assert read_entry("in.pth", {"a": torch.ones(1), "__metadata__": {"format": "pt"}}) is None
    assert read_entry("in.pth", {KEY: torch.ones(1)}) is None, "a tensor of this name"


def test_damage_is_told_and_naming_the_source_goes_around_it(
    tmp_path: Path, encoder: tuple[dict[str, Tensor], dict[str, Any]]
) -> None:
    tensors, entry = encoder
    path = tmp_path / "damaged.safetensors"
    write_weights(path, tensors, {**entry, "needs": 5})
    for use in (lambda: load(vit(), path), lambda: vit_options(path), lambda: convert(path)):
        with pytest.raises(WeightsError, match=r"is damaged: needs is 5; .* name its source"):
            use()
    model = vit()
    report = load(model, path, source="mae")
    assert any("is damaged, and is not used" in note for note in report.notes)
    assert report.origin == "MAE"
    for name, value in tensors.items():
        assert torch.equal(value, model.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_prefix": 40}, r"num_prefix is 40, for positions \(1, 17, 24\)"),
        ({"num_heads": 5}, "num_heads is 5, for 24 channels"),
    ],
)
def test_an_entry_of_other_tensors_is_refused(
    change: dict[str, Any], words: str, encoder: tuple[dict[str, Tensor], dict[str, Any]]
) -> None:
    tensors, entry = encoder
    with pytest.raises(WeightsError, match=f"is not of these tensors: {words}"):
        load(vit(), "in.pth", content={"model": dict(tensors), KEY: {**entry, **change}})


def test_a_converted_file_has_no_other_names(
    encoder: tuple[dict[str, Tensor], dict[str, Any]],
) -> None:
    tensors, entry = encoder
    content = {"model": {**tensors, "surprise.weight": torch.ones(1)}, KEY: entry}
    with pytest.raises(WeightsError, match=r"has no such keys: surprise\.weight"):
        load(vit(), "in.pth", content=content)


def test_random_bytes_in_the_metadata_end_in_an_error(
    encoder: tuple[dict[str, Tensor], dict[str, Any]],
) -> None:
    tensors, entry = encoder
    text = json.dumps(entry)
    random = np.random.RandomState(0)
    refused, model = 0, vit()
    for _ in range(300):
        letters = list(text)
        for place in random.randint(0, len(letters), 3):
            letters[place] = chr(random.randint(32, 127))
        content = {**tensors, "__metadata__": {KEY: "".join(letters)}}
        try:
            load(model, "in.safetensors", content=content)
        except WeightsError:
            refused += 1
    assert refused > 100

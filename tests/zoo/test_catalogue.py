# SPDX-License-Identifier: Apache-2.0
"""The catalogue against the table that Detectron2 publishes, parsed by other means."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vitdet_d2.errors import RecipeError
from vitdet_d2.zoo import RELEASED, Released, find, lookup
from vitdet_d2.zoo.recipe_names import find_recipe

GOLDEN = json.loads(Path(__file__).with_name("golden_readme.json").read_text())
NAMES = [
    *("vitdet_b", "vitdet_l", "vitdet_h"),
    *("cascade_swin_b", "cascade_swin_l"),
    *("cascade_mvitv2_b", "cascade_mvitv2_l", "cascade_mvitv2_h"),
    *("cascade_vitdet_b", "cascade_vitdet_l", "cascade_vitdet_h"),
    *("lvis_vitdet_b", "lvis_vitdet_l", "lvis_vitdet_h"),
    *("lvis_cascade_swin_b", "lvis_cascade_swin_l"),
    *("lvis_cascade_mvitv2_b", "lvis_cascade_mvitv2_l", "lvis_cascade_mvitv2_h"),
    *("lvis_cascade_vitdet_b", "lvis_cascade_vitdet_l", "lvis_cascade_vitdet_h"),
]
BACKBONES = {"vitdet": "ViTDet, ViT-{}", "swin": "Swin-{}", "mvitv2": "MViTv2-{}"}


def published(entry: Released) -> dict[str, Any]:
    """Return a row as the table writes it."""
    run = ("f" if entry.dataset == "coco" else "") + entry.model_id
    data = entry.dataset.upper()
    return {
        "cells": [
            BACKBONES[entry.backbone].format(entry.size.upper()),
            entry.pretraining,
            f"{entry.train_seconds:.3f}",
            f"{entry.infer_seconds:.3f}",
            f"{entry.memory_gb:.1f}" + ("*" if entry.activation_checkpointing else ""),
            f"{entry.box_ap:.1f}",
            f"{entry.mask_ap:.1f}",
            entry.model_id,
            "model",
        ],
        "links": [
            f"configs/{entry.aliases[1]}.py",
            f"https://dl.fbaipublicfiles.com/detectron2/ViTDet/{data}/"
            f"{entry.folder.partition('/')[2]}/{run}/model_final_{entry.hash_prefix}.pkl",
        ],
    }


def test_every_field_equals_the_published_table() -> None:
    assert [entry.name for entry in RELEASED] == NAMES
    for entry, row in zip(RELEASED, GOLDEN["rows"], strict=True):
        assert published(entry) == row, entry.name
        assert entry.address == row["links"][1]


def test_facts_that_the_table_has_in_its_headings() -> None:
    for entry in RELEASED:
        assert entry.num_classes == {"coco": 80, "lvis": 1203}[entry.dataset]
        assert entry.name.startswith("lvis_") == (entry.dataset == "lvis")
        assert ("cascade_" in entry.name) == (entry.head == "cascade_mask_rcnn")
        assert entry.name.endswith(f"{entry.backbone}_{entry.size}")
        assert entry.folder.startswith(f"{entry.dataset.upper()}/{entry.head}_{entry.backbone}")
    assert len({entry.model_id for entry in RELEASED}) == 22


def test_names_and_aliases_find_the_same_row() -> None:
    for entry in RELEASED:
        for name in (entry.name, entry.folder, f"{entry.folder}_{entry.epochs}ep"):
            assert find(name) is entry
    assert lookup("vitdet_x") is None
    assert lookup("COCO/mask_rcnn_vitdet_b_75ep") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vitdet_bb", r"'vitdet_bb' in the model zoo; did you mean vitdet_b "),
        ("lvis_cascade_vitdt_l", r"did you mean lvis_cascade_vitdet_l"),
        ("COCO/mask_rcnn_vitdet_b_75ep", r"did you mean vitdet_b"),
        ("resnet", r"see `vitdet zoo list`"),
        ("vitdet_ti", r"no checkpoint of the recipe 'vitdet_ti' was released"),
    ],
)
def test_unknown_names_suggest(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        find(name)


def test_the_documented_table_is_the_catalogue() -> None:
    document = (Path(__file__).parents[2] / "docs/zoo.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in document.splitlines()
        if re.match(r"\| `(lvis_|cascade_|vitdet_)", line)
    ]
    heads = {"mask_rcnn": "Mask R-CNN", "cascade_mask_rcnn": "Cascade Mask R-CNN"}
    backbones = {"vitdet": "ViT", "swin": "Swin", "mvitv2": "MViTv2"}
    expected = [
        [
            entry.name,
            entry.aliases[1],
            entry.dataset.upper(),
            heads[entry.head],
            f"{backbones[entry.backbone]}-{entry.size.upper()}",
            *(f"{ap:.1f}" for ap in (entry.box_ap, entry.mask_ap)),
            *(f"{seconds:.3f}" for seconds in (entry.train_seconds, entry.infer_seconds)),
            f"{entry.memory_gb:.1f}" + "*" * entry.activation_checkpointing,
            entry.model_id,
            entry.hash_prefix,
        ]
        for entry in RELEASED
    ]
    assert rows == expected


def test_recipes_publish_what_the_catalogue_does() -> None:
    for entry in RELEASED:
        header = find_recipe(entry.name).read_text(encoding="utf-8").split('"""')[1]
        for text in (
            f"{entry.box_ap:.1f} box AP, {entry.mask_ap:.1f} mask AP",
            f"model {entry.model_id}",
            f"{entry.train_seconds:.3f} s per iteration",
            f"{entry.memory_gb:.1f} GB",
            f"configs/{entry.aliases[1]}.py",
            f"{entry.epochs} epochs",
        ):
            assert text in header, f"{entry.name}: {text}"

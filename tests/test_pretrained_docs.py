# SPDX-License-Identifier: Apache-2.0
"""docs/pretrained.md: its overrides cure, its sources and names exist, its messages are those."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate

from tests.pretrained import key_lists
from vitdet_d2.engine.recipes import load_recipe
from vitdet_d2.errors import UserError, WeightsError
from vitdet_d2.pretrained import LoadReport, load
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.pretrained.sources import SOURCES
from vitdet_d2.zoo.initialisations import initialisation

TEXT = (Path(__file__).parents[1] / "docs/pretrained.md").read_text(encoding="utf-8")
PREFIX = "model.backbone.net."
GIANT = [f"{PREFIX}embed_dim=1536", f"{PREFIX}depth=40", f"{PREFIX}num_heads=24"]

# Row of the table of overrides, key list, source, overrides of another size of model.
ROWS: list[tuple[str, str, str | None, list[str]]] = [
    ("BEiT, BEiT v2", "beit_pt", "beit", []),
    ("CLIP", "clip", "clip", []),
    ("OpenCLIP", "clip", None, []),
    ("DINOv3 S, B, L", "dinov3", None, []),
    ("EVA-02 B", "eva02", None, []),
    ("DINOv2 g", "dinov2_g", None, GIANT),
]


def overrides_of(row: str) -> list[str]:
    # A row may go on in a second one.
    found = re.search(rf"^\| {re.escape(row)} \| (.*(?:\n\| \| .*)?)$", TEXT, flags=re.MULTILINE)
    assert found, row
    return re.findall(r"model\.backbone\.net\.\S+?=[^\s`]+", found[1])


def load_with(overrides: list[str], name: str, **options: Any) -> LoadReport:
    cfg = load_recipe("vitdet_b", overrides)
    with torch.device("meta"):
        vit = instantiate(cfg.model.backbone.net)
    return load(vit, name, content=key_lists.read(name), **options)


@pytest.mark.parametrize(("row", "name", "source", "size"), ROWS, ids=[row[0] for row in ROWS])
def test_overrides_are_what_the_loader_asks_for(
    row: str, name: str, source: str | None, size: list[str]
) -> None:
    overrides = overrides_of(row)
    with pytest.raises(WeightsError, match="does not fit this ViT") as refused:
        load_with(size, name, source=source)
    # The epsilon of the norms is a note.
    needed = [each for each in overrides if "eps" not in each]
    assert set(str(refused.value).partition("In a recipe: ")[2].split()) == set(needed)
    report = load_with([*size, *overrides], name, source=source)
    assert report.supplied[0] == report.supplied[1]
    assert not report.missing
    assert not any("eps" in note for note in report.notes)


def test_fine_tuned_beit_takes_tables_per_block() -> None:
    assert "or `per_block` (fine-tuned)" in TEXT
    report = load_with([f"{PREFIX}rel_pos_bias=per_block"], "beit_ft", source="beit")
    assert report.supplied[0] == report.supplied[1]


def test_every_override_is_a_key_of_the_recipe() -> None:
    found = sorted(set(re.findall(rf"{re.escape(PREFIX)}\w+(?:\.\w+)*=[^\s`)]+", TEXT)))
    assert len(found) > 8
    for override in found:
        load_recipe("vitdet_b", [override])


def test_every_source_and_name_is_documented() -> None:
    missing = {s.name for s in SOURCES if f"`{s.name}`" not in TEXT}
    # A name for want of one, and one that asks for another.
    assert missing <= {"plain", "deit3_or_rope"}
    rows = TEXT.partition("## Names")[2].partition("## Options")[0]
    for name in re.findall(r"`([a-z0-9]+_[a-z0-9_]+)`", rows):
        if name in {source.name for source in SOURCES}:
            continue
        assert initialisation(name) is not None, name


def test_report_of_mae_is_the_documented_one() -> None:
    report = load_with([], "mae_vit", source="mae")
    lines = report.lines()
    assert "verdict: all that MAE supplies: 147 of 147; 147 tensors loaded (encoder)" in lines
    assert lines[1] in TEXT
    assert len(lines) < 10


@pytest.mark.parametrize("name", re.findall(r"^error: (\w+): ", TEXT, flags=re.MULTILINE))
def test_messages_are_the_documented_ones(name: str) -> None:
    (documented,) = re.findall(rf"^error: ({name}: .*)$", TEXT, flags=re.MULTILINE)
    with pytest.raises(UserError) as error:
        read_weights(name)
    assert str(error.value).startswith(documented.removesuffix("..."))

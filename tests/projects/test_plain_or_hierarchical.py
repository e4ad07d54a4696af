# SPDX-License-Identifier: Apache-2.0
"""docs/plain_or_hierarchical.md: numbers are those that are counted, AP that which is published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vitdet_d2.analysis.complexity import count_recipe
from vitdet_d2.analysis.detector_count import total
from vitdet_d2.analysis.published import published_rows
from vitdet_d2.engine.recipes import load_recipe

TEXT = (Path(__file__).parents[2] / "docs/plain_or_hierarchical.md").read_text(encoding="utf-8")


def table(heading: str, index: int = 0) -> dict[str, list[str]]:
    """Return the rows of a table below a heading, by recipe."""
    part = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"(?:^\|.*\|\n)+", part, flags=re.MULTILINE)[index]
    found = re.findall(r"^\| `([\w/]+)` \| (.*) \|$", rows, flags=re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in found}


COST = table("Counted, 1024 x 1024")
PARTS = table("Counted, 1024 x 1024", 1)
GROWTH = table("Growth with the image")
ABLATIONS = table("PVT's own comparisons")


# One of each family; counting all of them would take a minute.
@pytest.mark.parametrize("name", ["vitdet_b", "cascade_swin_b", "mask_rcnn_pvt_v2_b2_li"])
def test_costs_are_counted(name: str) -> None:
    count = count_recipe(load_recipe(name), (1024, 1024), "model")
    cells = COST[name]
    assert cells[0] == f"{sum(count.parameters.values()) / 1e6:.1f}"
    assert cells[1] == f"{total(count.test).flops / 1e9:.0f}"
    assert cells[2] == f"{total(count.train).activations / 1e6:.0f}"
    parts = [
        count.test[part].flops for part in ("backbone", "neck", "rpn", "box_head", "mask_head")
    ]
    assert PARTS[name] == [f"{flops / 1e9:.1f}" for flops in parts]


@pytest.mark.parametrize("name", COST)
def test_ap_is_the_published_one(name: str) -> None:
    (row,) = published_rows(name)
    box_ap, mask_ap = COST[name][3:5]
    assert (float(box_ap), float(mask_ap)) == (row.values["bbox/AP"], row.values["segm/AP"])
    assert COST[name][6:] == [row.initialisation, row.schedule]


@pytest.mark.parametrize("name", ["mask_rcnn_pvt_small"])
def test_growth_is_counted(name: str) -> None:
    counts = [count_recipe(load_recipe(name), (n, n), "backbone") for n in (512, 1024, 2048)]
    gflops = [count.test["backbone"].flops / 1e9 for count in counts]
    ratios = [gflops[1] / gflops[0], gflops[2] / gflops[1]]
    assert GROWTH[name] == [f"{g:.1f}" for g in gflops] + [f"x {r:.1f}" for r in ratios]


@pytest.mark.parametrize("name", ["ablation/pvt_r_2_1_1_1"])
def test_ablations_are_counted(name: str) -> None:
    count = count_recipe(load_recipe(name), (800, 1344), "model")
    assert ABLATIONS[name][:3] == [
        f"{sum(count.parameters.values()) / 1e6:.1f}",
        f"{total(count.test).flops / 1e9:.0f}",
        f"{total(count.train).activations / 1e6:.0f}",
    ]

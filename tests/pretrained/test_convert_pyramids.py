# SPDX-License-Identifier: Apache-2.0
"""Pyramid transformers are converted, and load again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pretrained.pyramid_detector import detector_part
from tests.pretrained.pyramid_golden import OURS, build, load_pyramid
from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.pretrained import convert, load, write_weights


@pytest.mark.parametrize("name", OURS)
def test_a_converted_file_loads_again(name: str, tmp_path: Path) -> None:
    made = load_pyramid(name)
    torch.save(made.state(), tmp_path / "x.pth")
    for ending in (".safetensors", ".pth", ".pkl"):
        converted = convert(tmp_path / "x.pth", to="vitdet", layer_scale="fold")
        path = tmp_path / f"converted{ending}"
        write_weights(path, converted.tensors, converted.entry)
        backbone = build(name)
        report = load(backbone, path)
        made.assert_maps(backbone)
        assert report.origin == converted.origin
        assert report.how == "recognised by what its conversion wrote into it"
        assert report.supplied[0] == report.supplied[1]
        assert any("not for commercial" in note for note in report.notes) == (name == "mit")
        again = convert(path)
        assert again.tensors.keys() == converted.tensors.keys()


def test_what_cannot_be_converted_says_why(tmp_path: Path) -> None:
    torch.save(load_pyramid("pvt").state(), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"Detectron2 has no pyramid transformer.*--to vitdet"):
        convert(tmp_path / "x.pth", to="detectron2")
    torch.save({"model": detector_part().state_dict()}, tmp_path / "detector.pth")
    with pytest.raises(WeightsError, match=r"has no pyramid transformer, and cannot be the backb"):
        convert(tmp_path / "detector.pth", to="detectron2")
    kept = convert(tmp_path / "detector.pth")
    assert kept.kind == "detector"
    assert kept.tensors.keys() == detector_part().state_dict().keys()
    with pytest.raises(RecipeError, match=r"patch_size=16 is for plain ViTs"):
        convert(tmp_path / "x.pth", patch_size=16)


@pytest.mark.parametrize("change", [
    {"num_prefix": 1}, {"needs": {"act": "quick_gelu", "eps": 1e-6, "rope": None}},
    {"num_heads": 3},
])  # fmt: skip
def test_entries_of_other_weights_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    torch.save(load_pyramid("pvt").state(), tmp_path / "x.pth")
    converted = convert(tmp_path / "x.pth")
    write_weights(tmp_path / "y.pth", converted.tensors, {**converted.entry, **change})
    with pytest.raises(
        WeightsError, match=r"y\.pth: its entry 'vitdet_d2' is not of these tensors"
    ):
        load(build("pvt"), tmp_path / "y.pth")
    report = load(build("pvt"), tmp_path / "y.pth", source="pvt")
    assert any("is damaged, and is not used" in note for note in report.notes)

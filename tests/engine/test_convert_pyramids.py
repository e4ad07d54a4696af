# SPDX-License-Identifier: Apache-2.0
"""``vitdet convert`` with pyramid transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.pretrained.pyramid_golden import build, load_pyramid
from vitdet_d2.backbones import PVT
from vitdet_d2.engine import cli
from vitdet_d2.pretrained import load


def file_of(name: str, folder: Path) -> Path:
    torch.save(load_pyramid(name).state(), folder / f"{name}.pth")
    return folder / f"{name}.pth"


def test_arguments_of_the_result_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = file_of("pvt", tmp_path), tmp_path / "out.safetensors"
    assert cli.main(["convert", str(path), str(out)]) == 0
    shown = capsys.readouterr().out
    assert "124 tensors for vitdet, 5 keys left out (cls_token, norm.weight, norm.bias" in shown
    line = next(line for line in shown.splitlines() if line.startswith("our PVT takes it with: "))
    assert "embed_dims=[8,12,16,20] depths=[1,2,2,1] mlp_ratios=[3,2,2,1]" in line
    assert "pretrain_img_size=64" in line
    assert "num_heads is in no file" in shown
    backbone = build("pvt")
    assert load(backbone, out).verdict == "all that PVT supplies: 124 of 124"
    load_pyramid("pvt").assert_maps(backbone)


def test_programs_get_arguments_that_build_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = file_of("pvt", tmp_path), tmp_path / "out.pth"
    assert cli.main(["convert", str(path), str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["backbone"], facts["vit_options"]) == ("PVT", None)
    backbone = PVT(**facts["options"], num_heads=[1, 2, 2, 5])
    load(backbone, out)
    load_pyramid("pvt").assert_maps(backbone)


def test_licence_of_mit_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of("mit", tmp_path)
    assert cli.main(["convert", str(path), str(tmp_path / "out.pkl"), "--to", "vitdet"]) == 0
    assert "not for commercial use" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "code", "message"), [
    (["out.pkl"], 3, "Detectron2 has no pyramid transformer, and cannot be PVT v2"),
    (["out.pth", "--to", "detectron2"], 3, "Detectron2 has no pyramid transformer"),
    (["out.pth", "--patch-size", "8"], 2, "patch_size=8 is for plain ViTs"),
    (["out.pth", "--source", "pvt"], 3, "named pvt, but its keys are those of PVT v2"),
])  # fmt: skip
def test_what_cannot_be_is_refused(
    options: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file_of("pvt_v2", tmp_path)
    out = tmp_path / options[0]
    assert cli.main(["convert", str(path), str(out), *options[1:]]) == code
    assert message in capsys.readouterr().err
    assert not out.exists()

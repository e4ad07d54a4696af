# SPDX-License-Identifier: Apache-2.0
"""``vitdet convert``: what is written is what was read, and nothing is lost on the way."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.engine import tiny_detector
from vitdet_d2.atomic_write import HashingFile
from vitdet_d2.backbones import ViT
from vitdet_d2.engine import cli
from vitdet_d2.engine.detector import load_detector
from vitdet_d2.pretrained import load, read_weights

OPTIONS = {
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3,
    "pretrain_img_size": 32, "window_size": 0, "use_rel_pos": False,
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ViT with LayerScale, every parameter random, as DeiT's file."""
    state = {n: 0.2 * torch.randn_like(v) for n, v in vit(1.0).state_dict().items()}
    state["cls_token"] = torch.randn(1, 1, 24)
    torch.save({"model": state}, tmp_path / "in.pth")
    return tmp_path / "in.pth"


def vit(layer_scale: float | None = None) -> ViT:
    return ViT(**OPTIONS, layer_scale_init=layer_scale)  # type: ignore[arg-type]


def features(path: Path, model: ViT) -> Tensor:
    load(model, path)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(image)["last_feat"]


@pytest.mark.parametrize("name", ["out.safetensors", "out.pth"])
@pytest.mark.parametrize("layer_scale", ["keep", "fold"])
def test_a_converted_file_is_what_it_was(file: Path, name: str, layer_scale: str) -> None:
    out = file.with_name(name)
    argv = ["convert", str(file), str(out), "--source", "deit", "--layer-scale", layer_scale]
    assert cli.main(argv) == 0
    first, again = load(vit(1.0), file, source="deit"), load(vit(1.0), out)
    assert (again.origin, again.supplied[0] > 0) == (first.origin, True)
    if layer_scale == "keep":
        assert again.verdict == first.verdict
    torch.testing.assert_close(features(out, vit()), features(file, vit(1.0)), rtol=0, atol=1e-5)


def test_detectron2_takes_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = file.with_name("out.pkl")
    assert cli.main(["convert", str(file), str(out), "--source", "deit", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["to"], facts["folded"], facts["dropped"]) == ("detectron2", 4, ["cls_token"])
    content = pickle.loads(out.read_bytes())
    assert content["matching_heuristics"] is False
    assert content["__author__"].startswith("vitdet_d2 ")
    names = {f"backbone.net.{name}" for name in vit().state_dict()}
    assert content["model"].keys() == names
    torch.testing.assert_close(features(out, vit()), features(file, vit(1.0)), rtol=0, atol=1e-5)


def test_what_would_be_lost_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out, message in (
        (file, "is the file to read"),
        (file.with_name("out.npz"), "expected an ending of"),
        (file.parent / "no" / "out.pth", "is no folder"),
    ):
        assert cli.main(["convert", str(file), str(out), "--overwrite"]) == 2
        assert message in capsys.readouterr().err
    out = file.with_name("there.pth")
    out.write_text("mine")
    assert cli.main(["convert", str(file), str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_detectron2_cannot_do_all(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = read_weights(file)["model"]
    content |= {"norm_pre.weight": torch.ones(24), "norm_pre.bias": torch.zeros(24)}
    torch.save(content, file.with_name("pre.pth"))
    argv = ["convert", str(file.with_name("pre.pth")), str(file.with_name("out.pkl"))]
    assert cli.main(argv) == 3
    assert "a norm before the blocks" in capsys.readouterr().err
    assert not file.with_name("out.pkl").exists()


def test_the_arguments_of_the_result_are_shown(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = file.with_name("out.safetensors")
    argv = ["convert", str(file), str(out), "--source", "deit", "--patch-size", "16"]
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{file}: DeiT, as named; keys of a plain ViT"
    assert "patch kernel: 8 -> 16 pixels (pinv)" in lines
    assert any("pretrain_img_size=64" in line for line in lines if line.startswith("positions: "))
    assert lines[-2] == (
        "our ViT takes it with: patch_size=16 embed_dim=24 depth=2 layer_scale_init=1.0 "
        "pretrain_img_size=64 norm_layer.eps=1e-06"
    )
    assert "num_heads is in no file" in lines[-1]
    assert cli.main([*argv, "--to", "detectron2", "--overwrite", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["vit_options"]["pretrain_img_size"] == 64
    assert "layer_scale_init" not in facts["vit_options"]
    assert facts["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()


def test_a_failure_keeps_what_was_there(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: HashingFile, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HashingFile, "write", full)
    for name in ("there.safetensors", "there.pkl"):
        out = file.with_name(name)
        out.write_text("mine")
        argv = ["convert", str(file), str(out), "--source", "deit", "--overwrite"]
        assert cli.main(argv) == 1
        assert "No space left on device" in capsys.readouterr().err
        assert out.read_text() == "mine"


def test_a_folder_is_no_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = file.with_name("folder.pth")
    out.mkdir()
    assert cli.main(["convert", str(file), str(out), "--overwrite"]) == 2
    assert "is a folder; name a file" in capsys.readouterr().err
    assert cli.main(["convert", f"{file}?matching_heuristics=True", str(file), "--overwrite"]) == 2
    assert "is the file to read" in capsys.readouterr().err


def test_a_trained_detector_predicts_the_same_after_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny_detector.write_checkpoint(
        tmp_path / "in.pth", "model.backbone.net.layer_scale_init=1.0"
    )
    picture = tiny_detector.picture(48, 64)
    wanted = load_detector(source, device="cpu")
    for name, kept in (("out.safetensors", 1.0), ("out.pkl", None)):
        out = tmp_path / name
        assert cli.main(["convert", str(source), str(out)]) == 0
        assert "kept with it: 2 class names, its recipe" in capsys.readouterr().out
        found = load_detector(out, device="cpu")
        assert found.classes.names == tiny_detector.CLASSES
        assert found.classes.category_ids == tiny_detector.DATASET_IDS
        assert found.model.backbone.net.layer_scale_init == kept  # type: ignore[union-attr]
        image = {"image": torch.from_numpy(picture).permute(2, 0, 1), "height": 48, "width": 64}
        with torch.no_grad():
            first, second = (d.model([image])[0]["instances"] for d in (wanted, found))
        torch.testing.assert_close(first.scores, second.scores, rtol=0, atol=1e-4)

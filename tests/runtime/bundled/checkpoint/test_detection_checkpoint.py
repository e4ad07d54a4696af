# SPDX-License-Identifier: Apache-2.0
"""The checkpointer: formats, names that end alike, and saving that cannot lose the last one."""

from __future__ import annotations

import logging
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from safetensors.torch import save_file
from torch import nn

from vitdet_d2.errors import WeightsError

pytestmark = pytest.mark.skipif(
    "bundled" not in getattr(detectron2, "__version__", ""), reason="differs on purpose"
)


class Marker:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def filled(value: float) -> nn.Linear:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, value)
    nn.init.constant_(model.bias, value)
    return model


def test_saves_and_resumes_everything(tmp_path: Path) -> None:
    model = filled(1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    sgd.step()
    saver = DetectionCheckpointer(model, str(tmp_path), optimizer=sgd)
    PeriodicCheckpointer(saver, period=2, max_iter=10).step(1, note="x")
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]
    other = filled(0)
    fresh = torch.optim.SGD(other.parameters(), lr=0.1)
    rest = DetectionCheckpointer(other, str(tmp_path), optimizer=fresh).resume_or_load(
        "", resume=True
    )
    assert rest == {"iteration": 1, "note": "x"}
    assert torch.equal(other.weight, model.weight)
    assert fresh.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("kind", ["pth", "bare_pth", "zoo_pkl", "safetensors", "module_pth"])
def test_formats(kind: str, tmp_path: Path) -> None:
    tensors = {name: value.clone() for name, value in filled(3).state_dict().items()}
    path = tmp_path / f"file.{kind.split('_')[-1]}"
    if kind == "pth":
        torch.save({"model": tensors}, path)
    elif kind == "bare_pth":
        torch.save(tensors, path)
    elif kind == "module_pth":
        torch.save({"model": {f"module.{name}": v for name, v in tensors.items()}}, path)
    elif kind == "zoo_pkl":
        arrays = OrderedDict((name, value.numpy()) for name, value in tensors.items())
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}, protocol=2))
    else:
        save_file(tensors, path)
    model = filled(0)
    DetectionCheckpointer(model).load(str(path))
    assert torch.equal(model.weight, tensors["weight"])
    assert torch.equal(model.bias, tensors["bias"])


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_hostile_files_are_not_run(suffix: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / f"file.{suffix}"
    if suffix == "pth":
        torch.save({"model": Marker(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Marker(marker), "__author__": "x"}))
    with pytest.raises(WeightsError, match=r"`\w+\.mkdir`"):
        DetectionCheckpointer(filled(0)).load(str(path))
    assert not marker.exists()


class Detector(nn.Module):
    """A ViT-like backbone below a prefix, and a pyramid whose norms end alike."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        block = nn.ModuleDict({"norm1": nn.LayerNorm(4), "fc": nn.Linear(4, 4)})
        net = nn.ModuleDict({"blocks": nn.ModuleList([block])})
        pyramid = nn.ModuleDict({"norm": nn.LayerNorm(channels)})
        self.backbone = nn.ModuleDict({"net": net, "pyramid": pyramid, "top": pyramid})


def test_names_that_end_alike(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = {
        "blocks.0.norm1.weight": torch.full((4,), 5.0),
        "blocks.0.norm1.bias": torch.full((4,), 6.0),
        "blocks.0.fc.weight": torch.zeros(3, 4),
        "norm.weight": torch.full((4,), 9.0),
        "norm.bias": torch.full((4,), 9.0),
    }
    path = tmp_path / "encoder.pth"
    torch.save({"model": encoder}, path)
    model = Detector()
    caplog.set_level("INFO")
    DetectionCheckpointer(model).load(f"{path}?matching_heuristics=True")
    block = model.backbone["net"]["blocks"][0]
    assert block["norm1"].weight.tolist() == [5] * 4
    assert block["norm1"].bias.tolist() == [6] * 4
    assert "blocks.0.fc.weight is not loaded: its shape is (3, 4)" in caplog.text
    assert "2 of 8 tensors of the model found, all of them below 'backbone.net" in caplog.text
    # The ViT's own final norm has no place here; by its name alone it would fit the pyramid's.
    assert model.backbone["pyramid"]["norm"].weight.tolist() == [1] * 4
    # Without the query, names must agree in full.
    untouched = Detector()
    DetectionCheckpointer(untouched).load(str(path))
    assert untouched.backbone["net"]["blocks"][0]["norm1"].weight.tolist() == [1] * 4


def test_longest_name_wins_and_ambiguity_is_an_error(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.ModuleDict({"b": nn.Linear(1, 1)}), "c": nn.Linear(1, 1)})
    path = tmp_path / "w.pth"
    torch.save({"a.b.weight": torch.ones(1, 1), "weight": torch.full((1, 1), 2.0)}, path)
    DetectionCheckpointer(model).load(f"{path}?matching_heuristics=True")
    assert model["a"]["b"].weight.item() == 1
    assert model["c"].weight.item() == 2
    torch.save({"weight": torch.ones(1, 1)}, path)
    with pytest.raises(ValueError, match=r"weight fits a\.b\.weight and c\.weight"):
        DetectionCheckpointer(model).load(f"{path}?matching_heuristics=True")


@pytest.mark.parametrize(
    ("content", "message"),
    [({"blobs": {}}, "Caffe2"), ({"conv1_w": np.zeros(1)}, "Caffe2")],
)
def test_caffe2_files_are_refused(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(WeightsError, match=message):
        DetectionCheckpointer(filled(0)).load(str(path))


def test_wrong_paths_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth: no such file"):
        DetectionCheckpointer(filled(0)).load(str(tmp_path / "absent.pth"))
    with pytest.raises(ValueError, match="unknown query"):
        DetectionCheckpointer(filled(0)).load(f"{tmp_path}/a.pth?fuzzy=1")
    with pytest.raises(ValueError, match="without folders"):
        DetectionCheckpointer(filled(0), str(tmp_path)).save("../model")
    assert DetectionCheckpointer(filled(0)).load("") == {}


@pytest.mark.parametrize("failure", [RuntimeError("unexpected pos 704 vs 598"), OSError("full")])
def test_failed_save_keeps_the_last_checkpoint(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = DetectionCheckpointer(filled(1), str(tmp_path))
    saver.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def half_written(data: object, stream: Any) -> None:
        stream.write(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match=r"model\.pth could not be written .*untouched"):
        saver.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model.pth"]


def test_note_about_a_deleted_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saver = DetectionCheckpointer(filled(1), str(tmp_path))
    assert not saver.has_checkpoint()
    saver.save("model")
    assert saver.has_checkpoint()
    (tmp_path / "model.pth").unlink()
    with caplog.at_level(logging.WARNING):
        assert not saver.has_checkpoint()
    assert "does not exist" in caplog.text


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    DetectionCheckpointer(filled(1), str(tmp_path), save_to_disk=False).save("model")
    assert not os.listdir(tmp_path)

# SPDX-License-Identifier: Apache-2.0
"""Weights files as other readers see them, there as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from vitdet_d2 import atomic_write
from vitdet_d2.errors import RecipeError, UserError, WeightsError
from vitdet_d2.pretrained import read_weights, write_weights
from vitdet_d2.pretrained.write import ENDINGS

ENTRY = {"schema": 1, "thing_classes": ["ant", "b\u00fcffel"], "recipe": "{}"}


def tensors() -> dict[str, Tensor]:
    """All kinds that weights have: shared memory, cuts, no numbers, no dimensions, integers."""
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "flag": torch.tensor([True, False, True]),
        "whole": whole,
        "same": whole,
        "cut": whole[1:3, ::2],
        "turned": whole.t(),
        "half": whole.half(),
        "brain": whole.bfloat16(),
        "double": whole.double() / 3,
        "count": torch.tensor(7),
        "none": torch.empty(0, 3),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "learned": torch.nn.Parameter(torch.ones(2)),
    }


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{ending}"
    written = write_weights(path, tensors(), ENTRY)
    assert written.num_bytes == path.stat().st_size
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    content = read_weights(path)
    found = content if ending == ".safetensors" else content["model"]
    for name, value in tensors().items():
        wanted = value.float() if ending == ".pkl" and name == "brain" else value
        assert found[name].dtype == wanted.dtype, name
        assert torch.equal(found[name], wanted.detach()), name


def test_the_package_safetensors_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_weights(path, tensors(), ENTRY)
    found = load_file(path)
    assert found.keys() == tensors().keys()
    for name, value in tensors().items():
        assert torch.equal(found[name], value.detach()), name
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["vitdet_d2"]) == ENTRY
    write_weights(path, tensors())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_older_file_survives_a_full_disk(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"x{ending}"
    path.write_text("mine")
    write, calls = atomic_write.HashingFile.write, []

    def fail_late(self: Any, data: Any) -> int:
        calls.append(data)
        if len(calls) > 2:
            self.error = OSError(28, "No space left on device")
            raise self.error
        return write(self, data)

    monkeypatch.setattr(atomic_write.HashingFile, "write", fail_late)
    big = {f"t{i}": torch.zeros(50_000) for i in range(4)}
    with pytest.raises(UserError, match=r"could not be written \(No space left on device\)"):
        write_weights(path, big)
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "nothing is left behind"


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_older_file_survives_an_interrupt(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"x{ending}"
    path.write_text("mine")

    def interrupt(self: Any, data: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic_write.HashingFile, "write", interrupt)
    # `torch.save` may turn what a file raises into an error of its own.
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        write_weights(path, {"a": torch.zeros(3)})
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"expected an ending of \.safetensors, \.pth, \.pkl"):
        write_weights(tmp_path / "x.npz", {})
    with pytest.raises(UserError, match="could not be written"):
        write_weights(tmp_path / "no" / "x.pth", {})
    with pytest.raises(WeightsError, match=r"z: \.safetensors has no numbers of type torch"):
        write_weights(tmp_path / "x.safetensors", {"z": torch.zeros(2, dtype=torch.complex128)})
    assert not list(tmp_path.iterdir())

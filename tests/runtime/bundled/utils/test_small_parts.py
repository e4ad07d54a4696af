# SPDX-License-Identifier: Apache-2.0
"""Seeds, files, pickled closures, the environment."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import TORCH_VERSION, seed_all_rng
from detectron2.utils.file_io import PathManager
from detectron2.utils.serialize import PicklableWrapper


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seed_sets_every_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    seed_all_rng(7)
    first = draw()
    assert first != draw()
    seed_all_rng(7)
    assert draw() == first
    seed_all_rng()
    assert draw() != first
    with pytest.raises(ValueError, match="seed must be in"):
        seed_all_rng(-1)


def test_torch_version_is_two_numbers() -> None:
    assert len(TORCH_VERSION) == 2
    assert TORCH_VERSION >= (2, 10)


def test_paths_local_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PathManager.open(str(tmp_path / "a"), "w") as file:
        file.write("x")
    assert PathManager.isfile(str(tmp_path / "a"))
    asked: list[str] = []
    original = PathManager.get_local_path

    def record(path: str, force: bool = False, **_: object) -> str:
        if path.startswith("https://"):
            asked.append(path)
            return str(tmp_path / "a")
        return original(path, force)

    monkeypatch.setattr(PathManager, "get_local_path", record)
    PathManager.get_local_path("detectron2://ImageNetPretrained/MAE/x.pth")
    assert asked == ["https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MAE/x.pth"]


def test_wrapper_acts_as_what_it_wraps() -> None:
    wrapped = PicklableWrapper(PicklableWrapper(SimpleNamespace(a=1)))
    assert wrapped.a == 1
    assert isinstance(wrapped._obj, SimpleNamespace)
    assert pickle.loads(pickle.dumps(PicklableWrapper(len)))([1, 2]) == 2
    with pytest.raises(AttributeError, match="b"):
        wrapped.b  # noqa: B018


def test_wrapper_pickles_closures() -> None:
    pytest.importorskip("cloudpickle")
    offset = 3
    assert pickle.loads(pickle.dumps(PicklableWrapper(lambda x: x + offset)))(4) == 7


def test_environment_names_the_runtime_and_torch() -> None:
    text = collect_env_info()
    assert "detectron2" in text
    assert torch.__version__.partition("+")[0] in text

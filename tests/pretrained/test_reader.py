# SPDX-License-Identifier: Apache-2.0
"""Weights by path or address."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import PathManager

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.reader import read_weights, strip_query


def test_arrays_become_tensors(tmp_path: Path) -> None:
    path = tmp_path / "zoo.pkl"
    content = {"model": {"w": np.ones((2, 3), np.float32)}, "list": [np.zeros(2)], "n": 4}
    path.write_bytes(pickle.dumps(content, protocol=2))
    loaded = read_weights(f"{path}?matching_heuristics=True")
    assert torch.equal(loaded["model"]["w"], torch.ones(2, 3))
    assert torch.equal(loaded["list"][0], torch.zeros(2, dtype=torch.float64))
    assert loaded["n"] == 4


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/a/b.pth", "/a/b.pth"),
        ("/a/b.pth?matching_heuristics=True", "/a/b.pth"),
        ("detectron2://A/b.pth?matching_heuristics=True", "detectron2://A/b.pth"),
        ("https://h/b.pth?key=1&matching_heuristics=True", "https://h/b.pth?key=1"),
        ("https://h/b.pth?key=a%2Fb", "https://h/b.pth?key=a%2Fb"),
    ],
)
def test_only_the_matching_query_is_removed(address: str, expected: str) -> None:
    assert strip_query(address) == expected


def test_addresses_go_through_the_path_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cached.pth"
    torch.save({"w": torch.ones(1)}, path)
    asked = []

    def download(address: str) -> str:
        asked.append(address)
        return str(path)

    monkeypatch.setattr(PathManager, "get_local_path", download)
    address = "detectron2://A/b.pth"
    assert read_weights(f"{address}?matching_heuristics=True")["w"].item() == 1
    assert asked == [address]
    path.write_text("<html>404</html>")
    with pytest.raises(WeightsError, match=r"detectron2://A/b\.pth: .*web page.*delete the down"):
        read_weights(address)


def test_failed_downloads_name_address_and_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(address: str) -> str:
        raise OSError("HTTP Error 403: Forbidden")

    monkeypatch.setattr(PathManager, "get_local_path", download)
    with pytest.raises(WeightsError, match=r"https://h/x\.pth could not .*403.* local file"):
        read_weights("https://h/x.pth")

# SPDX-License-Identifier: Apache-2.0
"""Weights by path or address."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import PathHandler, PathManager

from tests.zoo.bad_server import BadServer
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.reader import read_weights, strip_query
from vitdet_d2.zoo import find


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


class Storage(PathHandler):
    """Storage of some project's own, whose handler it has registered."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _get_supported_prefixes(self) -> list[str]:
        return ["own://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        if path != "own://A/b.pth":
            raise OSError("no such object")
        return str(self.path)


def test_other_schemes_go_through_the_path_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cached.pth"
    torch.save({"w": torch.ones(1)}, path)
    monkeypatch.setattr(PathManager, "_path_handlers", PathManager._path_handlers.copy())
    PathManager.register_handler(Storage(path))
    assert read_weights("own://A/b.pth?matching_heuristics=True")["w"].item() == 1
    with pytest.raises(
        WeightsError, match=r"own://A/c\.pth could not .*no such object.* local file"
    ):
        read_weights("own://A/c.pth")


def test_addresses_are_downloaded_once(server: BadServer, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(1)}, buffer)
    server.files["/ImageNetPretrained/MAE/a.pth"] = buffer.getvalue()
    for _ in range(2):
        weights = read_weights("detectron2://ImageNetPretrained/MAE/a.pth?matching_heuristics=True")
        assert weights["w"].item() == 1
    assert len(server.requests) == 1
    server.files["/b.pth"] = pickle.dumps([1])
    with pytest.raises(WeightsError, match=r"b\.pth\?k=\*\*\*: .*expected a dictionary of tensors"):
        read_weights(f"{server.address}/b.pth?k=1")


def test_names_of_released_checkpoints_are_addresses(
    server: BadServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    body = pickle.dumps({"model": {"w": np.ones(1)}})
    for name in ("vitdet_b", "COCO/mask_rcnn_vitdet_b_100ep"):
        # Not the file that the name promises.
        server.files = {f"/ViTDet/{find('vitdet_b').path}": body}
        with pytest.raises(WeightsError, match="wrong hash: its name promises 61ccd1"):
            read_weights(name)
    Path("vitdet_b").write_bytes(body)
    assert read_weights("vitdet_b")["model"]["w"].item() == 1, "a file goes before a name"
    with pytest.raises(WeightsError, match=r"vitdet_bb: does not exist.*did you mean vitdet_b "):
        read_weights("vitdet_bb")

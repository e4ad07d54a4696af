# SPDX-License-Identifier: Apache-2.0
"""From an address to a loaded model, with servers and caches that are in order or are not."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.closed_form import fill_
from tests.zoo.bad_server import BadServer
from vitdet_d2.backbones import ViT
from vitdet_d2.errors import DownloadError, WeightsError
from vitdet_d2.pretrained import load

PATH = "/ImageNetPretrained/MAE/mae_pretrain_vit_tiny.pth"
# As Detectron2's recipes write it.
ADDRESS = f"detectron2:/{PATH}?matching_heuristics=True"


def vit() -> ViT:
    return ViT(img_size=32, pretrain_img_size=32, embed_dim=24, depth=2, num_heads=3)


def encoder() -> dict[str, Tensor]:
    return {**fill_(vit()).state_dict(), "cls_token": torch.ones(1, 1, 24)}


def file(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": state}, buffer)
    return buffer.getvalue()


def is_loaded(model: ViT) -> bool:
    return all(torch.equal(value, encoder()[name]) for name, value in model.state_dict().items())


def test_an_address_of_detectron2_is_downloaded_once_and_loaded(server: BadServer) -> None:
    server.files[PATH] = file(encoder())
    for _ in range(2):
        model = vit()
        report = load(model, ADDRESS)
        assert is_loaded(model)
        assert report.verdict == "all that a plain ViT supplies: 27 of 27"
    assert [path for path, _ in server.requests] == [PATH]


def test_a_damaged_file_in_the_cache_is_fetched_anew(server: BadServer, tmp_path: Path) -> None:
    server.files[PATH] = file(encoder())
    load(vit(), ADDRESS)
    [cached] = (tmp_path / "cache").rglob("*.pth")
    damaged = bytearray(cached.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    cached.write_bytes(damaged)
    model = vit()
    load(model, ADDRESS)
    assert is_loaded(model)
    assert len(server.requests) == 2
    assert cached.with_name(f"{cached.name}.corrupt").read_bytes() == damaged


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        ("html", WeightsError, "web page in place of the file"),
        ("status 403", WeightsError, r"mae_pretrain_vit_tiny\.pth: the server answered 403"),
        ("cut 1000", DownloadError, r"cut off at \d+ of \d+ bytes"),
    ],
)
def test_a_model_stays_as_it_was_where_weights_cannot_be_had(
    server: BadServer, behaviour: str, error: type[Exception], message: str
) -> None:
    server.files[PATH] = file(encoder())
    server.behaviours = [behaviour, *["cut 0"] * 9] if "cut" in behaviour else [behaviour]
    model = vit()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=message):
        load(model, ADDRESS)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not is_loaded(model)


def test_a_hash_in_the_name_must_be_that_of_the_file(server: BadServer) -> None:
    state = {f"backbone.{name}": value.numpy() for name, value in encoder().items()}
    body = pickle.dumps({"model": state, "__author__": "the zoo"})
    path = f"/ViTDet/COCO/x/1/model_final_{hashlib.md5(body).hexdigest()[:6]}.pkl"
    server.files[path] = body.replace(b"the zoo", b"the foe")
    with pytest.raises(WeightsError, match=r"wrong hash: its name promises \w{6}"):
        load(vit(), f"detectron2:/{path}")
    server.files[path] = body
    model = vit()
    load(model, f"detectron2:/{path}")
    assert is_loaded(model)

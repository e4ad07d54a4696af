# SPDX-License-Identifier: Apache-2.0
"""Names of pre-trained backbones: which there are, where they lead, and what becomes of them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from tests.zoo.bad_server import BadServer
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.reader import read_weights, require_weights
from vitdet_d2.pretrained.sources import SOURCES
from vitdet_d2.zoo import INITIALISATIONS, initialisation, initialisations, lookup
from vitdet_d2.zoo.addresses import hash_prefix
from vitdet_d2.zoo.initialisations import require_address, source_of, starts_at_random
from vitdet_d2.zoo.recipe_names import recipe_names

# Names that other projects hold on to.
CONTRACT = """
mae_vit_b mae_vit_l mae_vit_h mocov3_vit_s mocov3_vit_b beit_b beit_l beitv2_b beitv2_l
deit_ti deit_s deit_b deit3_s deit3_b deit3_l deit3_h augreg_ti augreg_s augreg_b augreg_l
dinov2_s dinov2_b dinov2_l dinov2_g
pvt_tiny pvt_small pvt_medium pvt_large
pvt_v2_b0 pvt_v2_b1 pvt_v2_b2 pvt_v2_b2_li pvt_v2_b3 pvt_v2_b4 pvt_v2_b5
mit_b0 mit_b1 mit_b2 mit_b3 mit_b4 mit_b5
""".split()

# What stands in the names of files, read by hand.
PUBLISHED = {
    "mae_vit_b": None,
    "mae_vit_h_p14": "9bdbb0",
    "deit_s": "cd65a155",
    "deit_distilled_b": "df68dfff",
    "deit3_b": None,
    "dino_b": None,
    "sam_h": "4b8939",
    "clip_b": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "openclip_l": "3d133497",
    "eva02_b": None,
}


def test_every_name_of_the_contract_is_there_once() -> None:
    names = [row.name for row in INITIALISATIONS]
    assert set(CONTRACT) <= set(names)
    assert len(names) == len(set(names))
    assert not set(names) & set(recipe_names()), "a name means one thing"
    assert not [name for name in names if lookup(name)]


@pytest.mark.parametrize("row", INITIALISATIONS, ids=lambda row: row.name)
def test_a_row_is_complete(row: initialisations.Initialisation) -> None:
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", row.name)
    assert f"_{row.size}" in row.name
    assert (f"_p{row.patch}" in row.name) <= (row.patch != 16)
    assert (row.patch == 4) == (row.kind != "ViT")
    assert row.licence
    if row.address is None:
        assert "https://" in row.note, "where the file can be had by hand"
        assert row.note.endswith("give the path of the file")
        with pytest.raises(WeightsError, match=rf"{row.name}: its authors give no address"):
            require_address(row)
        return
    parts = urlsplit(row.address)
    assert (parts.scheme, parts.query, parts.fragment) == ("https", "", "")
    assert re.search(r"\.(pth|pth\.tar|pt|npz)$", parts.path)
    assert "{" not in row.address
    assert require_address(row) == row.address


def test_addresses_differ() -> None:
    addresses = [row.address for row in INITIALISATIONS if row.address]
    assert len(addresses) == len(set(addresses))


@pytest.mark.parametrize(("name", "digits"), PUBLISHED.items())
def test_published_hashes_are_known(name: str, digits: str | None) -> None:
    row = initialisation(name)
    assert row is not None
    assert row.address is not None
    assert row.digits == digits
    assert hash_prefix(f"{row.address}?download=1") == digits
    mirror = row.address.replace("https://", "https://mirror.example/")
    assert hash_prefix(mirror) is None


def test_random_stands_for_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert starts_at_random("")
    assert starts_at_random("random")
    assert not starts_at_random("mae_vit_b")
    with pytest.raises(WeightsError, match="'random' stands for no weights"):
        read_weights("random")
    torch.save({"a": torch.ones(1)}, "random")
    assert not starts_at_random("random"), "a file goes before a name"
    assert read_weights("random")["a"] == 1


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, server: BadServer) -> BadServer:
    """Let `deit_b` be a small file of the server."""
    buffer = io.BytesIO()
    torch.save({"model": {"patch_embed.proj.bias": torch.arange(3.0)}}, buffer)
    server.files["/deit/b.pth"] = buffer.getvalue()
    row = initialisation("deit_b")
    assert row is not None
    here = dataclasses.replace(row, address=f"{server.address}/deit/b.pth")
    monkeypatch.setitem(initialisations._BY_NAME, "deit_b", here)
    return server


def test_a_name_is_downloaded_once_and_read(
    served: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    require_weights("deit_b", download=False)
    assert not served.requests, "data is checked before anything is downloaded"
    require_weights("deit_b", download=True)
    weights = read_weights("deit_b")
    assert weights["model"]["patch_embed.proj.bias"].tolist() == [0, 1, 2]
    assert len(served.requests) == 1
    torch.save({"mine": torch.ones(1)}, "deit_b")
    assert list(read_weights("deit_b")) == ["mine"], "a file goes before a name"


def test_a_file_with_a_wrong_published_hash_is_refused(
    server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitdet_d2.zoo.cached_file.hash_prefix", lambda _: "b5f2ef4d")
    server.files["/deit.pth"] = body = b"\x80\x02}q\x00."
    with pytest.raises(WeightsError, match=r"wrong hash: its name promises b5f2ef4d\.\.\., the 6"):
        read_weights(f"{server.address}/deit.pth")
    full = hashlib.sha256(body).hexdigest()
    monkeypatch.setattr("vitdet_d2.zoo.cached_file.hash_prefix", lambda _: full)
    assert read_weights(f"{server.address}/deit.pth") == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mae_vitb", r"mae_vitb: does not exist.*did you mean mae_vit_b or mae_vit_"),
        ("dinov3_b", r"dinov3_b: .* accept the licence at https://ai\.meta\.com/.*give the path"),
        ("mit_b2", r"mit_b2: .*not for commercial use; .*https://github\.com/NVlabs/SegFormer"),
        ("ibot_s", r"ibot_s: .*download the backbone with a browser from https://github\.com/"),
    ],
)
def test_names_that_cannot_be_had_say_what_to_do(name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_weights(name)
    with pytest.raises(WeightsError, match=message):
        require_weights(name, download=False)


def test_licences_that_forbid_commercial_use_are_said() -> None:
    for row in INITIALISATIONS:
        if row.kind == "MiT":
            assert "non-commercial" in row.licence
            assert "not for commercial use" in row.note
        elif row.kind != "ViT":
            assert row.licence == "Apache-2.0"


def test_every_layout_can_be_read() -> None:
    known = {source.name for source in SOURCES}
    assert {row.source for row in INITIALISATIONS} <= known
    assert source_of("mae_vit_b") == "mae"
    assert source_of("mae.pth") is None

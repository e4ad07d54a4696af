# SPDX-License-Identifier: Apache-2.0
"""``vitdet zoo``: what it prints, and its exit codes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.bad_server import BadServer
from vitdet_d2.engine import cli
from vitdet_d2.engine.zoo_command import _parser
from vitdet_d2.zoo import INITIALISATIONS, RELEASED, catalogue, initialisation

BODY = pickle.dumps({"model": {}})


def run(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    code = cli.main(["zoo", *line.split()])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_list_and_its_filters(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 24
    assert lines[1].split()[:7] == "vitdet_b coco mask_rcnn vitdet b 51.6 45.9".split()
    assert "18.4*\n" in out
    counts = {
        "--dataset lvis": 11,
        "--backbone swin": 4,
        "--head mask_rcnn": 6,
        "--size h": 6,
        "--dataset coco --backbone vitdet --size l": 2,
    }
    for filters, count in counts.items():
        code, out, _ = run(capsys, f"list --json {filters}")
        assert (code, len(json.loads(out))) == (0, count), filters
    code, _, err = run(capsys, "list --size xl")
    assert code == 2
    assert "--size: invalid choice: 'xl'" in err


def test_show_tells_everything(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITDET_D2_CACHE", str(tmp_path))
    for entry in RELEASED:
        code, out, _ = run(capsys, f"show {entry.aliases[1]} --json")
        facts = json.loads(out)
        assert code == 0
        for field in dataclasses.fields(entry):
            assert facts[field.name] == getattr(entry, field.name)
        assert (facts["address"], facts["cached"]) == (entry.address, None)
    _, out, _ = run(capsys, "show lvis_cascade_mvitv2_h")
    for text in (
        "1203 classes",
        "with activation checkpointing",
        "recipe",
        "50 ep",
    ):
        assert text in out
    code, _, err = run(capsys, "show vitdt_b")
    assert code == 2
    assert "did you mean vitdet_b" in err


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, server: BadServer) -> BadServer:
    """Let two rows be small files of the server, which their names fit."""
    prefix = hashlib.md5(BODY).hexdigest()[:6]
    rows = tuple(dataclasses.replace(entry, hash_prefix=prefix) for entry in RELEASED)
    monkeypatch.setattr(catalogue, "RELEASED", rows)
    for name in ("vitdet_b", "cascade_swin_b"):
        server.files[f"/ViTDet/{catalogue.find(name).path}"] = BODY
    return server


def test_download_verifies_and_goes_on_after_a_failure(
    small: BadServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capsys, "download vitdet_b vitdet_l vitdet_h cascade_swin_b")
    assert code == 3
    assert "mask_rcnn_vitdet_l/" in err
    assert "mask_rcnn_vitdet_h/" in err
    assert err.count("404") == 2
    first, second = out.splitlines()
    assert first.startswith(f"vitdet_b: downloaded, {len(BODY)} bytes, sha256 ")
    assert "is of its md5" in first
    assert Path(second.rpartition(": ")[2]).read_bytes() == BODY
    code, out, _ = run(capsys, "download COCO/mask_rcnn_vitdet_b --json")
    [facts] = json.loads(out)
    assert facts["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert Path(facts["path"]).is_relative_to(tmp_path)
    assert len(small.requests) == 4
    code, out, _ = run(capsys, "show vitdet_b --json")
    assert json.loads(out)["cached"] == facts["path"]


def test_a_misspelt_name_downloads_nothing(
    small: BadServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "download vitdet_b vitdt_l")
    assert code == 2
    assert "did you mean" in err
    assert not small.requests


@pytest.mark.parametrize(
    ("behaviour", "code"), [("html", 3), ("flip", 3), ("status 403", 3), ("no_length", 1)]
)
def test_exit_codes_of_downloads(
    small: BadServer, capsys: pytest.CaptureFixture[str], behaviour: str, code: int
) -> None:
    small.behaviours = [behaviour]
    found, _, err = run(capsys, "download vitdet_b")
    assert found == code
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_no_network_is_one(
    small: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITDET_D2_ZOO_URL", "http://127.0.0.1:9")
    code, _, err = run(capsys, "download vitdet_b")
    assert code == 1
    assert "cannot be reached" in err


def test_commands_in_the_documents_are_valid() -> None:
    root = Path(__file__).parents[2]
    lines = [
        line
        for path in [root / "README.md", *(root / "docs").glob("*.md")]
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("vitdet zoo ")
    ]
    assert len(lines) >= 6
    for line in lines:
        parsed = _parser("vitdet zoo").parse_args(shlex.split(line, comments=True)[2:])
        names = getattr(parsed, "names", [getattr(parsed, "name", "vitdet_b")])
        assert all(initialisation(name) or catalogue.find(name) for name in names), line


def test_initialisations_are_listed_shown_and_downloaded(
    server: BadServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "list --initialisations")
    assert code == 0
    assert out.splitlines()[1].split()[:5] == "mae_vit_b mae MAE, IN1K ViT-b/16".split()
    assert out.count("download by hand") == sum(row.address is None for row in INITIALISATIONS)
    _, out, _ = run(capsys, "list --initialisations --size g --json")
    assert [row["name"] for row in json.loads(out)] == ["dinov2_g", "dinov2_reg_g"]
    code, _, err = run(capsys, "list --initialisations --head mask_rcnn")
    assert code == 2
    assert "--head chooses among trained detectors" in err

    server.files["/ImageNetPretrained/MAE/mae_pretrain_vit_base.pth"] = BODY
    code, out, _ = run(capsys, "download mae_vit_b")
    assert code == 0
    assert "no published hash to compare with" in out
    _, out, _ = run(capsys, "show mae_vit_b --json")
    facts = json.loads(out)
    assert Path(facts["cached"]).read_bytes() == BODY
    assert (facts["source"], facts["digits"], facts["licence"]) == ("mae", None, "CC BY-NC 4.0")
    _, out, _ = run(capsys, "show deit_b")
    assert "b5f2ef4d..." in out

    code, _, err = run(capsys, "download mae_vit_l dinov3_b")
    assert code == 3
    assert "accept the licence at https://" in err
    assert len(server.requests) == 1, "nothing is downloaded where a name cannot be"
    code, _, err = run(capsys, "show mae_vitb")
    assert code == 2
    assert "did you mean mae_vit_b" in err

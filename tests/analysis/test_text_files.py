# SPDX-License-Identifier: Apache-2.0
"""Reports as files: refused before the work, written as a whole, quoted where CSV needs it."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from vitdet_d2.analysis.text_files import check_output, csv_text, write_text
from vitdet_d2.errors import RecipeError, UserError


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is a folder; name a file"):
        check_output(tmp_path)
    with pytest.raises(RecipeError, match=r"nowhere is no folder; make it first"):
        check_output(tmp_path / "nowhere" / "a.csv")
    check_output(tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"a\.csv cannot be written"):
        write_text(tmp_path / "nowhere" / "a.csv", "x")


def test_folders_closed_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A real one would be open to an administrator, who may run the tests.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(RecipeError, match=r"is closed for writing; name a file in another"):
        check_output(tmp_path / "a.csv")


def test_text_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a longer text than the new one")
    write_text(path, "a\u00e9\n")
    assert path.read_bytes() == "a\u00e9\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_csv_survives_reading() -> None:
    rows = [["name", "value"], ['a,"b"', None], ["line\nbreak", 0.1]]
    text = csv_text(rows)
    assert list(csv.reader(text.splitlines(keepends=True))) == [
        ["name", "value"], ['a,"b"', ""], ["line\nbreak", "0.1"],
    ]  # fmt: skip
    assert "\r" not in text

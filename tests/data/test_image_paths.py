# SPDX-License-Identifier: Apache-2.0
"""Which pictures are meant by what a user types."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vitdet_d2.data.image_paths import find_images
from vitdet_d2.errors import DataError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "photos/b.jpg",
        "photos/a.PNG",
        "photos/notes.txt",
        "photos/.hidden.jpg",
        "photos/._a.PNG",
        "photos/deep/c.jpeg",
        "photos/deep/deeper/d.webp",
        "photos/.cache/e.jpg",
        "other/b.jpg",
        "single.heic",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_its_own_pictures_sorted(place: Path) -> None:
    found = find_images(["photos"])
    assert found.root == place / "photos"
    assert found.names == ("a.PNG", "b.jpg")
    assert [path.name for path in found.skipped] == ["notes.txt"]
    assert found.path("b.jpg") == place / "photos" / "b.jpg"


def test_recursive_adds_those_of_the_folders_below(place: Path) -> None:
    found = find_images(["photos"], recursive=True)
    assert found.names == ("a.PNG", "b.jpg", "deep/c.jpeg", "deep/deeper/d.webp")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/*.jpg", ("b.jpg",)),
        ("photos/?.*", ("a.PNG", "b.jpg")),
        ("photos/[a-b].???", ("a.PNG", "b.jpg")),
        ("photos/**/*.w*", ("d.webp",)),
        ("*/b.jpg", ("other/b.jpg", "photos/b.jpg")),
    ],
)
def test_patterns(place: Path, pattern: str, names: tuple[str, ...]) -> None:
    assert find_images([pattern]).names == names


def test_an_existing_name_with_brackets_is_no_pattern(place: Path) -> None:
    (place / "a[1].jpg").touch()
    assert find_images(["a[1].jpg"]).names == ("a[1].jpg",)


def test_same_names_in_several_folders_stay_apart(place: Path) -> None:
    found = find_images(["photos/b.jpg", "other"])
    assert found.root == place
    assert found.names == ("photos/b.jpg", "other/b.jpg")


def test_a_file_is_taken_whatever_its_ending(place: Path) -> None:
    assert find_images(["single.heic"]).names == ("single.heic",)
    assert find_images([place / "photos" / ".hidden.jpg"]).names == (".hidden.jpg",)


def test_each_picture_is_taken_once(place: Path) -> None:
    (place / "link.jpg").symlink_to(place / "photos" / "b.jpg")
    found = find_images(["photos/b.jpg", "photos", "photos/../photos/b.jpg", "link.jpg"])
    assert found.names == ("b.jpg", "a.PNG")


def test_results_of_an_earlier_time_are_left_out(place: Path) -> None:
    found = find_images(["photos"], recursive=True, exclude=place / "photos" / "deep")
    assert found.names == ("a.PNG", "b.jpg")


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("none.jpg", ("{place}/none.jpg not found", "a quoted pattern")),
        ("none/*.jpg", ("no pictures match {place}/none/*.jpg", "looked from {place}")),
        ("photos/*.txt", ("no pictures match", "other files (notes.txt)", ".jpg")),
        ("empty", ("no pictures in folder {place}/empty", "pictures end in .avif")),
        ("above", ("no pictures in folder {place}/above, but 1 in its sub-folders", "--recursive")),
    ],
)
def test_nothing_found_says_where_was_looked(
    place: Path, given: str, parts: tuple[str, ...]
) -> None:
    (place / "empty").mkdir()
    (place / "above" / "below").mkdir(parents=True)
    (place / "above" / "below" / "x.jpg").touch()
    with pytest.raises(DataError, match=re.escape(parts[0].format(place=place))) as caught:
        find_images(["photos", given])
    for part in parts:
        assert part.format(place=place) in str(caught.value)


def test_only_results_in_a_folder_are_no_pictures(place: Path) -> None:
    with pytest.raises(DataError, match=r"other: all its pictures lie in .*the folder for the res"):
        find_images(["other"], exclude=place / "other")


def test_a_file_named_by_itself_is_taken_from_anywhere(place: Path) -> None:
    assert find_images(["other/b.jpg"], exclude=place / "other").names == ("b.jpg",)

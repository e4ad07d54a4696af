# SPDX-License-Identifier: Apache-2.0
"""What the checks take for LVIS's format, and what they refuse in it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.checks.bad_coco import good
from tests.evaluation import toy_lvis
from vitdet_d2.checks import check_coco_annotations
from vitdet_d2.checks.evaluation_input import prepare_ground_truth
from vitdet_d2.errors import DataError


@pytest.fixture
def lvis() -> dict[str, Any]:
    return toy_lvis.ground_truth(1)


def test_as_it_comes_nothing_is_repaired(lvis):
    """No ``iscrowd``, no ``file_name``, ids with gaps and out of order: all of that is LVIS."""
    before = copy.deepcopy(lvis)
    report = check_coco_annotations(lvis)
    assert report.repairs == ()
    assert report.category_ids == (3, 5, 7, 9, 12, 40)
    assert report.lvis is not None
    assert "".join(report.lvis.frequencies) == "crrffc"
    assert report.lvis.image_counts == (60, 4, 4, 900, 900, 60)
    assert report.document["images"][0]["file_name"] == "val2017/000000000100.jpg"
    assert report.document["annotations"] == lvis["annotations"]
    assert lvis == before, "the input is not changed"


def test_other_files_are_not_lvis():
    report = check_coco_annotations(good())
    assert report.lvis is None
    document = good()
    for image in document["images"]:
        image["coco_url"] = "http://images.cocodataset.org/train2017/other.jpg"
    assert check_coco_annotations(document).document["images"] == document["images"]


def test_names_are_the_first_synonyms_and_names_otherwise(lvis):
    lvis["categories"][0]["synonyms"] = ["horned_cow", "bull"]
    del lvis["categories"][1]["synonyms"]
    lvis["categories"][2]["synonyms"] = []
    report = check_coco_annotations(lvis)
    names = dict(zip(report.category_ids, report.category_names, strict=True))
    assert (names[7], names[3], names[12]) == ("horned_cow", "class_3", "class_12")


def test_counts_that_are_missing_are_counted(lvis):
    for category in lvis["categories"]:
        del category["image_count"]
    expected = [
        len({a["image_id"] for a in lvis["annotations"] if a["category_id"] == number})
        for number in (3, 5, 7, 9, 12, 40)
    ]
    assert max(expected) > 1
    report = check_coco_annotations(lvis)
    assert report.lvis is not None
    assert list(report.lvis.image_counts) == expected


def test_file_names_of_ones_own(lvis):
    for number, image in enumerate(lvis["images"]):
        del image["coco_url"]
        image["file_name"] = f"mine/{number}.png"
    names = [image["file_name"] for image in check_coco_annotations(lvis).document["images"]]
    assert names[:2] == ["mine/0.png", "mine/1.png"]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("images", {"coco_url": None}, r"image 100 \(entry 0\): expected a 'coco_url' or a 'file_"),
        ("images", {"coco_url": "http://host/../x.jpg"}, r"image 100: file_name '../x.jpg' leads"),
        ("images", {"neg_category_ids": [3, 33]}, r"image 100: 'neg_category_ids': 33 is not the"),
        ("images", {"not_exhaustive_category_ids": ["3"]}, r"'not_exhaustive_.*': '3' is not the"),
        (
            "images",
            {"neg_category_ids": 3},
            r"'neg_category_ids': expected a list of .*, got 3; correct it",
        ),
        ("images", {"id": 93}, r"image id 93 is used 2 times"),
        ("categories", {"frequency": None}, r"category 7 \('class_7'\): expected a 'frequency' of"),
        ("categories", {"frequency": "x"}, r"expected a 'frequency' of 'r', 'c', 'f', got 'x'"),
        (
            "categories",
            {"image_count": -1},
            r"expected a number of images as 'image_count', got -1",
        ),
        ("annotations", {"iscrowd": 1}, r"'iscrowd' is set, but LVIS has no crowds"),
        ("annotations", {"category_id": 99}, r"category_id 99 is not in 'categories'"),
    ],
)
def test_broken_files_are_refused(lvis, part, change, message):
    lvis[part][0].update(change)
    with pytest.raises(DataError, match=message):
        check_coco_annotations(lvis)


def test_coco_evaluation_does_not_take_lvis(lvis):
    with pytest.raises(DataError, match="is in LVIS's format, which COCO's evaluation scores"):
        prepare_ground_truth(lvis, None, "toy")

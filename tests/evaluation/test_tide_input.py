# SPDX-License-Identifier: Apache-2.0
"""Files of an analysis of errors: what is refused, with what message, and what is only noted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.toy_tide import lvis_case, random_case, with_masks
from vitdet_d2.errors import DataError
from vitdet_d2.evaluation.tide import analyse_errors
from vitdet_d2.evaluation.tide_data import Task, TideData
from vitdet_d2.evaluation.tide_input import load_tide_data, results_file

TRUTH, FOUND = random_case(1, crowds=True)


class Files:
    """A file of detections and one of annotations."""

    def __init__(self, folder: Path) -> None:
        self.predictions = folder / "coco_instances_results.json"
        self.annotations = folder / "val.json"
        self.write(FOUND, TRUTH)

    def write(self, found: Any, truth: Any = TRUTH) -> None:
        self.predictions.write_text(found if isinstance(found, str) else json.dumps(found))
        self.annotations.write_text(json.dumps(truth))

    def load(self, task: Task = "bbox", most: int | None = None) -> tuple[TideData, list[str]]:
        return load_tide_data(
            self.predictions, self.annotations, task, positive_iou=0.5, max_detections=most
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def changed(**values: Any) -> list[dict[str, Any]]:
    return [{**FOUND[0], **values}, *FOUND[1:]]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (changed(bbox=[1.0, float("nan"), 3.0, 4.0]), r"1 boxes are NaN or infinite, on 1 images"),
        (changed(score=float("nan")), r"1 scores are NaN or infinite"),
        (changed(score=None), r"expected a number 'score', got None"),
        (changed(category_id=77), r"category_id 77 is not in the annotation file"),
        (changed(image_id=770), r"image_id 770 is not in the annotation file"),
        (changed(image_id="a"), r"expected an integer 'image_id', got 'a'"),
        (changed(bbox=[1, 2, 3]), r"expected 'bbox' \[x, y, width, height\]"),
        (changed(bbox=[1, 2, -3, 4]), r"expected a width and height >= 0"),
        ([1, 2], r"expected a list of detections, one object each"),
        ("[{", r"predictions .*results\.json is no valid JSON"),
        ("", r"predictions .*results\.json is no valid JSON"),
        ("3", r"expected a list of detections in COCO's result format, got int"),
        (TRUTH, r"got an annotation file; the order is PREDICTIONS ANNOTATIONS"),
        (TRUTH["annotations"], r"these are annotations without 'score', not detections"),
        ({**TRUTH, "failed": []}, r"got what `vitdet predict` writes.*run `vitdet eval`"),
        ({"bbox": {"AP": 3.0}}, r"got the metrics of an evaluation; the detections are in coco_"),
        ({"a": 1}, r"got an object with the keys \['a'\]"),
    ],
    ids=str,
)
def test_predictions_that_cannot_be_used(files: Files, found: Any, message: str) -> None:
    files.write(found)
    with pytest.raises(DataError, match=message):
        files.load()


def test_predictions_in_binary(files: Files) -> None:
    files.predictions.write_bytes(b"\x80\x02\xff\xfe weights")
    with pytest.raises(DataError, match=r"predictions .* is no valid JSON"):
        files.load()


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (FOUND, r"expected a COCO annotation file.*\(a list is a file of results\)"),
        ({**TRUTH, "annotations": []}, r"no object is annotated, so that no detection can be"),
        ({"images": []}, r"this is no COCO annotation file"),
    ],
    ids=["detections", "test split", "cut"],
)
def test_annotations_that_cannot_be_used(files: Files, truth: Any, message: str) -> None:
    files.write(FOUND, truth)
    with pytest.raises(DataError, match=message):
        files.load()


def test_objects_that_do_not_count(files: Files) -> None:
    crowds = [{**row, "iscrowd": 1} for row in TRUTH["annotations"]]
    files.write(FOUND, {**TRUTH, "annotations": crowds})
    with pytest.raises(DataError, match=r"no object is annotated"):
        files.load()
    truth, found = lvis_case(1)
    without_area = [{**row, "area": 0} for row in truth["annotations"]]
    files.write(found, {**truth, "annotations": without_area})
    with pytest.raises(DataError, match=r"no object is annotated"):
        files.load()


def test_missing_files(files: Files) -> None:
    files.annotations.unlink()
    with pytest.raises(DataError, match=r"annotation file .*val\.json not found"):
        files.load()
    files.predictions.unlink()
    with pytest.raises(DataError, match=r"predictions .*results\.json not found"):
        files.load()


def test_masks_that_are_not_there(files: Files) -> None:
    with pytest.raises(DataError, match=r"detections have no 'segmentation'.*--iou-type bbox"):
        files.load("segm")
    bare = [{**row, "segmentation": []} for row in TRUTH["annotations"]]
    files.write(with_masks(FOUND), {**TRUTH, "annotations": bare})
    with pytest.raises(DataError, match=r"annotations have no 'segmentation'"):
        files.load("segm")


def test_masks_without_boxes(files: Files) -> None:
    masks = with_masks(FOUND)
    files.write([{k: v for k, v in row.items() if k != "bbox"} for row in masks])
    assert len(files.load("segm")[0].classes) == len(FOUND)
    with pytest.raises(DataError, match=r"have no 'bbox'; analyse masks with --iou-type segm"):
        files.load()


def test_damaged_masks(files: Files) -> None:
    masks = with_masks(FOUND)
    masks[3]["segmentation"]["size"] = [5, 5]
    files.write(masks)
    files.load()  # boxes are fine
    with pytest.raises(DataError, match=r"detection 3 .*the mask's 'size' is \[5, 5\]"):
        files.load("segm")


def test_no_predictions_are_named_and_have_no_ap(files: Files) -> None:
    files.write([])
    data, notes = files.load()
    assert any("no detections at all: AP is 0" in note for note in notes)
    analysis = analyse_errors(data)
    assert analysis.ap == 0
    assert analysis.costs["missed"].count == len(data.truth_classes)


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (changed(score=1.5), "1 scores are outside [0, 1]"),
        ([*FOUND, *FOUND[:3]], "3 detections are exact repeats"),
        ([row for row in FOUND if row["image_id"] < 3], "only 2 of 10 images have detections"),
    ],
    ids=["score", "repeats", "few images"],
)
def test_what_is_odd_is_noted(files: Files, found: Any, note: str) -> None:
    files.write(found)
    _, notes = files.load()
    assert any(note in text for text in notes), notes


def test_nothing_odd_and_the_limit(files: Files) -> None:
    assert files.load()[1] == []
    data, notes = files.load(most=2)
    assert data.num_beyond == len(FOUND) - len(data.classes) > 0
    assert f"{data.num_beyond} detections are beyond the best 2 of their image" in notes[0]


def test_ids_written_otherwise(files: Files) -> None:
    wanted = analyse_errors(files.load()[0])
    files.write([{**row, "image_id": str(row["image_id"])} for row in FOUND])
    assert analyse_errors(files.load()[0]).ap == wanted.ap


def test_run_folder(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(DataError, match=r"the folder has no detections, expected inference/coco_"):
        results_file(tmp_path)
    write(tmp_path / "inference" / "coco_instances_results.json")
    expected = tmp_path / "inference" / "coco_instances_results.json"
    assert results_file(tmp_path) == results_file(tmp_path / "inference") == expected
    write(tmp_path / "inference" / "lvis_instances_results.json")
    with pytest.raises(DataError, match=r"there are coco_.*json and lvis_.*json; name one"):
        results_file(tmp_path)


@pytest.fixture
def write() -> Callable[[Path], None]:
    def write_empty(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text("[]")

    return write_empty

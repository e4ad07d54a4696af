# SPDX-License-Identifier: Apache-2.0
"""Annotation files: what is refused, with which words; what is repaired, and how."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from tests.checks.bad_coco import good, rle, with_, without
from vitdet_d2.checks import check_coco_annotations
from vitdet_d2.errors import DataError

NAN, INF = float("nan"), float("inf")
IMAGE, ANNOTATION, CATEGORY = "images", "annotations", "categories"
A1 = r"annotation 1 \(image 10\): "

FATAL = {
    "image id twice": (with_(IMAGE, "id", 10, 1), "image id 10 is used 2 times"),
    "image id word": (with_(IMAGE, "id", "a"), r"image 'a' \(entry 0\): expected an integer 'id'"),
    "image id ambiguous": (with_(IMAGE, "id", "010"), "expected an integer 'id', got '010'"),
    "image id bool": (with_(IMAGE, "id", True), "expected an integer 'id', got True"),
    "image id huge": (with_(IMAGE, "id", 2**70), "does not fit 64 bits"),
    "no height": (without(IMAGE, "height"), "expected an integer 'height', got None"),
    "zero width": (with_(IMAGE, "width", 0), "at least 1 pixel, got 40 x 0"),
    "giant": (with_(IMAGE, "width", 2**40), "at least 1 pixel"),
    "no file name": (without(IMAGE, "file_name"), "expected a 'file_name', got None"),
    "file name up": (with_(IMAGE, "file_name", "a/../../b.png"), "leads out of the image folder"),
    "file name back": (with_(IMAGE, "file_name", "..\\b.png"), "leads out of the image folder"),
    "file name root": (with_(IMAGE, "file_name", "/etc/passwd"), "leads out of the image folder"),
    "file name drive": (with_(IMAGE, "file_name", "C:\\b.png"), "leads out of the image folder"),
    "file name web": (with_(IMAGE, "file_name", "http://a/b.png"), "leads out of the image"),
    "category twice": (with_(CATEGORY, "id", 7), "category id 7 is used 2 times"),
    "category unnamed": (without(CATEGORY, "name"), "category 3 .*expected a 'name'"),
    "category unknown": (
        with_(ANNOTATION, "category_id", 333),
        A1 + r"category_id 333 is not in 'categories', which has ids 3, 7; .*1 such",
    ),
    "category missing": (without(ANNOTATION, "category_id"), A1 + "expected an integer 'category"),
    "image missing": (without(ANNOTATION, "image_id"), "expected an integer 'image_id', got None"),
    "no box": (without(ANNOTATION, "bbox"), A1 + "expected 'bbox'"),
    "short box": (with_(ANNOTATION, "bbox", [1, 2, 3]), A1 + "expected 'bbox'"),
    "NaN box": (with_(ANNOTATION, "bbox", [1, NAN, 3, 4]), A1 + "expected 4 finite .* got nan"),
    "infinite box": (with_(ANNOTATION, "bbox", [1, 2, INF, 4]), A1 + "expected 4 finite"),
    "word box": (with_(ANNOTATION, "bbox", [1, 2, "3", 4]), A1 + "expected 4 finite .* got '3'"),
    "astronomic box": (with_(ANNOTATION, "bbox", [1, 2, 10**400, 4]), A1 + "expected 4 finite"),
    "far box": (with_(ANNOTATION, "bbox", [1e6, 2, 3, 4]), A1 + r"box \[.* is far outside"),
    "crowd 2": (with_(ANNOTATION, "iscrowd", 2), A1 + "expected 'iscrowd' 0 or 1, got 2"),
    "ignore": (with_(ANNOTATION, "ignore", 1), A1 + "'ignore' is set"),
    "NaN polygon": (
        with_(ANNOTATION, "segmentation", [[1, 2, 3, 4, 5, NAN]]),
        A1 + "expected finite numbers in 'segmentation', got nan",
    ),
    "infinite polygon": (
        with_(ANNOTATION, "segmentation", [[1, 2, 3, 4, 5, -INF]], 2),
        r"annotation 3 \(image 20\): expected finite numbers",
    ),
    "huge polygon": (
        with_(ANNOTATION, "segmentation", [[1, 2, 3, 4, 5, 1e9]]),
        A1 + r"polygon coordinate 1e\+09 is far outside",
    ),
    "flat polygon": (
        with_(ANNOTATION, "segmentation", [1, 2, 3, 4, 5, 6]),
        A1 + r"expected 'segmentation' \[\[x, y",
    ),
    "word polygon": (
        with_(ANNOTATION, "segmentation", [[1, 2, 3, 4, 5, "6"]]),
        A1 + "expected finite numbers in 'segmentation', got '6'",
    ),
    "word mask": (with_(ANNOTATION, "segmentation", "abc"), A1 + "expected 'segmentation' as a"),
    "RLE short": (with_(ANNOTATION, "segmentation", rle(400, 1000)), "add up to 40 x 60 = 2400"),
    "RLE long": (with_(ANNOTATION, "segmentation", rle(400, 9000)), "got a sum of 9400"),
    "RLE negative": (with_(ANNOTATION, "segmentation", rle(-100, 2500)), "must be >= 0"),
    "RLE fraction": (with_(ANNOTATION, "segmentation", rle(0.5, 2399.5)), "whole run lengths"),
    "RLE NaN": (with_(ANNOTATION, "segmentation", rle(NAN, 2000)), "whole run .* got nan"),
    "RLE size": (
        with_(ANNOTATION, "segmentation", rle(size=(60, 40))),
        A1 + r"the mask's 'size' is \[60, 40\], the image's \[height, width\] is \[40, 60\]",
    ),
    "RLE giant": (
        with_(ANNOTATION, "segmentation", {"size": [10**6, 10**6], "counts": [10**12]}),
        "the mask's 'size' is",
    ),
    "RLE without counts": (
        with_(ANNOTATION, "segmentation", {"size": [40, 60]}),
        "expected the mask's 'counts'",
    ),
    "RLE packed badly": (
        with_(ANNOTATION, "segmentation", {"size": [40, 60], "counts": "a\n"}),
        "packed 'counts' are damaged",
    ),
}


@pytest.mark.parametrize("case", FATAL)
def test_fatal_mistakes_are_refused(case: str) -> None:
    make, message = FATAL[case]
    with pytest.raises(DataError, match=message) as caught:
        check_coco_annotations(make())
    assert "\n" not in str(caught.value)


def test_valid_document_is_left_alone() -> None:
    document = good()
    before = copy.deepcopy(document)
    report = check_coco_annotations(document)
    assert report.repairs == ()
    assert report.document == before
    assert document == before
    assert report.category_ids == (3, 7)
    assert report.category_names == ("cat", "dog")
    assert report.class_index == {3: 0, 7: 1}
    assert report.instances_per_class == (1, 2)
    assert report.num_polygon_masks == 3


REPAIRED = {
    "id 0": (with_(ANNOTATION, "id", 0), "annotations renumbered", "id", 1),
    "id twice": (with_(ANNOTATION, "id", 2), "annotations renumbered", "id", 1),
    "id missing": (without(ANNOTATION, "id"), "annotations renumbered", "id", 1),
    "no iscrowd": (without(ANNOTATION, "iscrowd"), "without 'iscrowd'", "iscrowd", 0),
    "null iscrowd": (with_(ANNOTATION, "iscrowd", None), "without 'iscrowd'", "iscrowd", 0),
    "no area": (without(ANNOTATION, "area"), "without 'area'", "area", 200.0),
    "NaN area": (with_(ANNOTATION, "area", NAN), "without 'area'", "area", 200.0),
    "string ids": (with_(ANNOTATION, "image_id", "10"), "no integer", "image_id", 10),
    "float ids": (with_(ANNOTATION, "category_id", 3.0), "no integer", "category_id", 3),
    "box beyond": (
        with_(ANNOTATION, "bbox", [-5.0, 5.0, 20.0, 10.0]),
        "partly outside",
        "bbox",
        [0.0, 5.0, 15.0, 10.0],
    ),
    "some bad polygons": (
        with_(ANNOTATION, "segmentation", [[1, 2], [4, 5, 24, 5, 24, 15], [], [1] * 7]),
        "less than 3 points",
        "segmentation",
        [[4, 5, 24, 5, 24, 15]],
    ),
}


@pytest.mark.parametrize("case", REPAIRED)
def test_repairs_are_made_and_counted(case: str) -> None:
    make, what, key, value = REPAIRED[case]
    document = make()
    before = copy.deepcopy(document)
    report = check_coco_annotations(document)
    assert what in str(report.repairs[0])
    assert len(report.repairs) == 1
    assert report.document["annotations"][0][key] == value
    assert len(report.document["annotations"]) == 3
    assert repr(document) == repr(before), "the caller's document was changed"


DROPPED = {
    "zero box": with_(ANNOTATION, "bbox", [5, 5, 0, 10]),
    "negative box": with_(ANNOTATION, "bbox", [5, 5, 10, -1]),
    "box outside": with_(ANNOTATION, "bbox", [100, 5, 10, 10]),
    "no valid polygon": with_(ANNOTATION, "segmentation", [[1, 2, 3, 4]]),
    "orphan": with_(ANNOTATION, "image_id", 99),
}


@pytest.mark.parametrize("case", DROPPED)
def test_unusable_annotations_are_dropped_and_counted(case: str) -> None:
    report = check_coco_annotations(DROPPED[case]())
    assert [entry["id"] for entry in report.document["annotations"]] == [2, 3]
    assert any("dropped" in str(repair) for repair in report.repairs)
    assert report.instances_per_class == (0, 2)
    assert report.unused_classes == ("cat",)


def test_boxes_beyond_the_image_by_rounding_are_kept() -> None:
    box = [-0.5, 5.0, 20.0, 10.0]
    report = check_coco_annotations(with_(ANNOTATION, "bbox", box)())
    assert report.repairs == ()
    assert report.document["annotations"][0]["bbox"] == box


def test_string_ids_are_converted_everywhere() -> None:
    document = good()
    for image in document["images"]:
        image["id"] = str(image["id"])
    for category in document["categories"]:
        category["id"] = str(category["id"])
    for annotation in document["annotations"]:
        for key in ("image_id", "category_id"):
            annotation[key] = str(annotation[key])
    report = check_coco_annotations(document)
    assert report.document == good()
    assert [repair.count for repair in report.repairs] == [2, 2, 3, 3]


@pytest.mark.parametrize(
    ("where", "key", "value", "told"),
    [
        (IMAGE, "id", "10", "1 images whose 'id', 'height' or 'width' was no integer .*: ids 10"),
        (IMAGE, "height", 40.0, "1 images whose .*: ids 10"),
        (CATEGORY, "id", "3", "1 categories whose 'id' was no integer .*: ids 3"),
    ],
)
def test_every_conversion_is_told(where: str, key: str, value: object, told: str) -> None:
    """Else no repaired copy is registered, and Detectron2's own loader reads the string."""
    report = check_coco_annotations(with_(where, key, value)())
    assert report.document == good()
    assert [bool(re.match(told, str(repair))) for repair in report.repairs] == [True]


def test_colliding_string_ids_are_refused() -> None:
    document = with_(IMAGE, "id", "20")()
    with pytest.raises(DataError, match="image id 20 is used 2 times"):
        check_coco_annotations(document)


def test_area_is_computed_from_the_mask() -> None:
    document = good()
    for annotation in document["annotations"]:
        del annotation["area"]
    document["annotations"][0]["segmentation"] = [[0, 0, 10, 0, 0, 10], [20, 0, 24, 0, 24, 5]]
    document["annotations"][1]["segmentation"] = rle(400, 2000)
    document["annotations"][2]["segmentation"] = []
    report = check_coco_annotations(document)
    assert [a["area"] for a in report.document["annotations"]] == [60.0, 2000, 2400.0]
    counts = (report.num_polygon_masks, report.num_rle_masks, report.num_without_mask)
    assert counts == (1, 1, 1)


def test_breakdown_tells_why_images_are_unusable() -> None:
    document = good()
    document["images"] += [
        {"id": number, "file_name": f"{number}.png", "height": 40, "width": 60}
        for number in (30, 40)
    ]
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"][1]["iscrowd"] = 1
    document["annotations"][2]["bbox"] = [5, 5, 0, 0]
    document["annotations"].append({**good()["annotations"][0], "id": 9, "image_id": 40})
    report = check_coco_annotations(document)
    assert report.breakdown == (
        "4 images: 1 with instances, 1 with crowds only, 1 with only invalid annotations, "
        "1 without annotations"
    )


def test_file_of_test_images_has_no_annotations() -> None:
    document = good()
    del document["annotations"]
    assert check_coco_annotations(document).num_empty == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"expected a COCO annotation file.* got list \(a list is a file of results\)"),
        ("{", "is no valid JSON"),
        ("", "is no valid JSON"),
        ("[" * 100_000, "is no valid JSON"),
        ("{}", "expected a list 'images', got None"),
        ('{"images": [], "categories": [{}]}', "there are no images"),
        ('{"images": [3], "categories": [{}]}', "expected an object as entry 0 of 'images', got 3"),
        ('{"images": [{"id": 1, "height": 2, "width": 2, "file_name": "a"}], "categories": []}',
         "there are no categories"),
    ],
)  # fmt: skip
def test_files_that_are_no_annotations(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        check_coco_annotations(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotation file .*a\.json not found"):
        check_coco_annotations(tmp_path / "a.json")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for number in (10, 20):
        Image.new("RGB", (60, 40)).save(folder / f"{number}.png")
    return folder


def test_images_are_found(images: Path) -> None:
    (images / "10.png").rename(images / "sub" / "10.png")
    document = with_(IMAGE, "file_name", "sub/10.png")()
    assert check_coco_annotations(document, images).num_images == 2


def test_missing_images_are_listed(images: Path) -> None:
    document = good()
    for number in range(100, 112):
        document["images"].append({**document["images"][0], "id": number, "file_name": f"{number}"})
    names = ", ".join(str(number) for number in range(100, 110))
    with pytest.raises(DataError, match=rf"12 of 14 images .* missing in .*: {names}, \.\.\.;"):
        check_coco_annotations(document, images)


def test_missing_image_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image folder .*nowhere of annotations not found"):
        check_coco_annotations(good(), tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is an empty file"), (b"<html>", r"is no picture that can be read \(6 bytes\)")],
)
def test_files_that_are_no_pictures(images: Path, content: bytes, message: str) -> None:
    (images / "20.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"20\.png {message}"):
        check_coco_annotations(good(), images)


def test_image_size_is_compared(images: Path) -> None:
    Image.new("RGB", (61, 40)).save(images / "10.png")
    message = (
        r"10\.png: .* says 40 x 60 \(height x width\), the picture is 40 x 61; .*1 of 2 images"
    )
    with pytest.raises(DataError, match=message):
        check_coco_annotations(good(), images)


def test_swapped_size_is_recognised(images: Path) -> None:
    Image.new("RGB", (40, 60)).save(images / "10.png")
    with pytest.raises(DataError, match="height and width are swapped"):
        check_coco_annotations(good(), images)


def test_exif_orientation_is_recognised(images: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(images / "10.png", exif=exif)
    with pytest.raises(DataError, match="its Exif orientation turns it"):
        check_coco_annotations(good(), images)
    # Stored on its side, shown as the annotations say.
    Image.new("RGB", (40, 60)).save(images / "10.png", exif=exif)
    assert check_coco_annotations(good(), images).num_images == 2
    # The tag may stand behind the pixels of a PNG.
    stored = (images / "10.png").read_bytes()
    start, pixels, end = (stored.index(name) - 4 for name in (b"eXIf", b"IDAT", b"IEND"))
    assert start < pixels
    moved = stored[:start] + stored[pixels:end] + stored[start:pixels] + stored[end:]
    (images / "10.png").write_bytes(moved)
    assert check_coco_annotations(good(), images).num_images == 2


def test_pictures_are_not_decoded(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand PNG files of 2 megapixels would take a minute."""

    def refuse(picture: Image.Image) -> None:
        raise AssertionError(f"{picture.filename} is decoded")  # type: ignore[attr-defined]

    monkeypatch.setattr(PngImageFile, "load", refuse)
    assert check_coco_annotations(good(), images).num_images == 2


# Runs where a crash of the C code cannot take the tests with it. Perfect detections score AP 1.
CHILD = """
import contextlib, io, json, sys
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
scores = []
with contextlib.redirect_stdout(io.StringIO()):
    for document in json.load(open(sys.argv[1])):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        results = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.9,
             "bbox": a["bbox"], "segmentation": truth.annToRLE(a)}
            for a in document["annotations"]
        ]
        for result in results:
            result["segmentation"]["counts"] = result["segmentation"]["counts"].decode()
        for kind in ("bbox", "segm"):
            evaluation = COCOeval(truth, truth.loadRes(results), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            scores.append(float(evaluation.stats[0]))
print(json.dumps(scores))
"""


def test_pycocotools_scores_repaired_documents(tmp_path: Path) -> None:
    makers = [case[0] for case in REPAIRED.values()] + list(DROPPED.values())
    documents = [check_coco_annotations(make()).document for make in makers]
    path = tmp_path / "documents.json"
    path.write_text(json.dumps(documents))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True
    )
    scores = json.loads(child.stdout)
    assert len(scores) == 2 * len(makers)
    np.testing.assert_allclose(scores, 1.0)

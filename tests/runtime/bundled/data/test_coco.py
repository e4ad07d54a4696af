# SPDX-License-Identifier: Apache-2.0
"""Annotation files to records and back."""

from __future__ import annotations

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import (
    convert_to_coco_json,
    load_coco_json,
    register_coco_instances,
)
from detectron2.structures import BoxMode

from vitdet_d2.errors import DataError

# pycocotools 2.0.11 decodes with an `__array__` that numpy 2 finds outdated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAME = "test_coco_set"
SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]
MASK = np.zeros((8, 10), dtype=np.uint8, order="F")
MASK[1:3, 4:9] = 1


def _document():
    """Ids out of order and with gaps, a crowd, an image without objects, three kinds of mask."""
    counts = mask_util.encode(MASK)["counts"].decode()
    entries = [
        {"id": 5, "image_id": 7, "category_id": 30, "segmentation": [SQUARE], "iscrowd": 0},
        {
            "id": 2,
            "image_id": 3,
            "category_id": 4,
            "segmentation": {"size": [8, 10], "counts": counts},
            "iscrowd": 0,
        },
        {
            "id": 9,
            "image_id": 7,
            "category_id": 4,
            "segmentation": {"size": [8, 10], "counts": [0, 10, 70]},
            "iscrowd": 1,
        },
    ]
    boxes = [[2.0, 1.0, 4.0, 3.0], [4.0, 1.0, 5.0, 2.0], [0.0, 0.0, 2.0, 8.0]]
    areas = [12, 10, 10]
    for entry, box, area in zip(entries, boxes, areas, strict=True):
        entry |= {"bbox": box, "area": area, "note": f"n{entry['id']}"}
    return {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": 8, "width": 10}
            for number in (7, 3, 5)
        ],
        "annotations": entries,
        "categories": [{"id": 30, "name": "cup"}, {"id": 4, "name": "dog"}],
    }


@pytest.fixture
def json_file(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(_document()))
    yield str(path)
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


def test_records(json_file):
    records = load_coco_json(json_file, "images", NAME)
    assert [r["image_id"] for r in records] == [3, 5, 7]
    assert records[0]["file_name"] == "images/3.jpg"
    assert (records[0]["height"], records[0]["width"]) == (8, 10)
    assert records[1]["annotations"] == []
    polygon, crowd = records[2]["annotations"]
    assert polygon == {
        "iscrowd": 0,
        "bbox": [2.0, 1.0, 4.0, 3.0],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 1,
        "segmentation": [SQUARE],
    }
    assert (crowd["iscrowd"], crowd["category_id"]) == (1, 0)
    assert mask_util.decode(crowd["segmentation"])[:, 0].all()  # column order
    assert mask_util.area(crowd["segmentation"]) == 10
    np.testing.assert_array_equal(
        mask_util.decode(records[0]["annotations"][0]["segmentation"]), MASK
    )
    metadata = MetadataCatalog.get(NAME)
    assert metadata.thing_classes == ["dog", "cup"]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 30: 1}


def test_without_a_name_ids_stay(json_file):
    records = load_coco_json(json_file, "images", extra_annotation_keys=["note"])
    found = [(a["category_id"], a["note"]) for r in records for a in r["annotations"]]
    assert found == [(4, "n2"), (30, "n5"), (4, "n9")]
    assert NAME not in MetadataCatalog


def test_ignored_annotations_are_refused(json_file, tmp_path):
    document = _document()
    document["annotations"][1]["ignore"] = 1
    (tmp_path / "b.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"annotation 2 .*'ignore' is set"):
        load_coco_json(str(tmp_path / "b.json"), "images", NAME)


def test_other_classes_than_the_metadata_has(json_file):
    MetadataCatalog.get(NAME).thing_classes = ["cat"]
    with pytest.raises(ValueError, match=r"'thing_classes' of data set 'test_coco_set'"):
        load_coco_json(json_file, "images", NAME)


def test_registered_file_is_read_on_use(json_file):
    register_coco_instances(NAME, {"thing_colors": [[1, 2, 3]]}, json_file, "images")
    assert not hasattr(MetadataCatalog.get(NAME), "thing_classes")
    assert len(DatasetCatalog.get(NAME)) == 3
    metadata = MetadataCatalog.get(NAME)
    assert (metadata.evaluator_type, metadata.image_root) == ("coco", "images")
    assert metadata.thing_classes == ["dog", "cup"]


def test_round_trip(json_file, tmp_path):
    register_coco_instances(NAME, {}, json_file, "")
    output = tmp_path / "new" / "out.json"
    convert_to_coco_json(NAME, str(output))
    written = json.loads(output.read_text())
    assert written["categories"] == [{"id": 4, "name": "dog"}, {"id": 30, "name": "cup"}]
    assert [i["id"] for i in written["images"]] == [3, 5, 7]
    assert [a["id"] for a in written["annotations"]] == [1, 2, 3]
    by_old_id = {5: written["annotations"][1], 2: written["annotations"][0]}
    for old in _document()["annotations"][:2]:
        new = by_old_id[old["id"]]
        for key in ("image_id", "category_id", "segmentation", "iscrowd", "bbox", "area"):
            assert new[key] == pytest.approx(old[key]) if key == "area" else new[key] == old[key]
    assert written["annotations"][2]["iscrowd"] == 1
    assert written["annotations"][2]["area"] == 10


def test_conversion_of_other_boxes():
    records = [
        {
            "file_name": "a.jpg",
            "height": 8,
            "width": 10,
            "annotations": [
                {
                    "bbox": np.array([1.00049, 2, 4, 5.5]),
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": 0,
                },
                {"bbox": [5, 4, 3, 2, 30.0], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0},
            ],
        }
    ]
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).thing_classes = ["cup"]
    try:
        from detectron2.data.datasets.coco import convert_to_coco_dict

        document = convert_to_coco_dict(NAME)
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    annotation, rotated = document["annotations"]
    assert (rotated["bbox"], rotated["area"]) == ([5, 4, 3, 2, 30], 6)
    assert annotation["bbox"] == [1.0, 2.0, 3.0, 3.5]
    assert annotation["area"] == pytest.approx(2.99951 * 3.5)
    assert annotation["image_id"] == document["images"][0]["id"] == 0
    assert annotation["category_id"] == document["categories"][0]["id"] == 0


@pytest.mark.parametrize("allow_cached", [True, False])
def test_cached_conversion_follows_the_data_set(json_file, tmp_path, allow_cached):
    records = load_coco_json(json_file, "images", NAME)
    DatasetCatalog.register(NAME, lambda: records)
    output = tmp_path / "out.json"
    convert_to_coco_json(NAME, str(output))
    first = output.stat()
    convert_to_coco_json(NAME, str(output), allow_cached=allow_cached)
    assert (output.stat().st_ino == first.st_ino) == allow_cached
    del records[0]["annotations"][0]  # the same name, another content
    convert_to_coco_json(NAME, str(output), allow_cached=allow_cached)
    assert len(json.loads(output.read_text())["annotations"]) == 2
    assert [p.name for p in tmp_path.glob("out.json*")] == ["out.json"]

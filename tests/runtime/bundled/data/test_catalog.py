# SPDX-License-Identifier: Apache-2.0
"""Registration: once, twice, differently; errors that say what there is."""

from __future__ import annotations

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances


@pytest.fixture
def name():
    yield "test_catalog_set"
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("test_catalog_set", None)


def _records():
    return [{"image_id": 1}]


def test_registered_function_is_called(name):
    DatasetCatalog.register(name, _records)
    assert DatasetCatalog.get(name) == [{"image_id": 1}]
    assert name in DatasetCatalog.list()
    DatasetCatalog.remove(name)
    assert name not in DatasetCatalog


def test_same_registration_twice_is_fine_and_another_is_an_error(name):
    register_coco_instances(name, {}, "a.json", "images")
    register_coco_instances(name, {}, "a.json", "images")
    with pytest.raises(ValueError, match=r"already registered with another source"):
        register_coco_instances(name, {}, "b.json", "images")
    assert MetadataCatalog.get(name).json_file == "a.json"


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(KeyError, match=r"did you mean .*coco_2017_train"):
        DatasetCatalog.get("coco_2017_trian")


def test_metadata_is_set_once(name):
    metadata = MetadataCatalog.get(name)
    assert metadata.set(thing_classes=["a"]) is MetadataCatalog.get(name)
    metadata.thing_classes = ["a"]
    with pytest.raises(ValueError, match=r"'thing_classes' of data set 'test_catalog_set'"):
        metadata.thing_classes = ["b"]
    with pytest.raises(AttributeError, match=r"no metadata 'json_file'"):
        _ = metadata.json_file
    assert metadata.get("json_file", "none") == "none"
    assert metadata.as_dict() == {"name": name, "thing_classes": ["a"]}


def test_coco_is_registered_with_its_80_classes():
    metadata = MetadataCatalog.get("coco_2017_val")
    assert len(metadata.thing_classes) == len(set(metadata.thing_classes)) == 80
    ids = metadata.thing_dataset_id_to_contiguous_id
    for category, index, class_name in [
        (1, 0, "person"),
        (13, 11, "stop sign"),
        (90, 79, "toothbrush"),
    ]:
        assert ids[category] == index
        assert metadata.thing_classes[index] == class_name
    assert metadata.json_file.endswith("coco/annotations/instances_val2017.json")
    assert len({tuple(color) for color in metadata.thing_colors}) == 80

# SPDX-License-Identifier: Apache-2.0
"""Where class names come from, and when a list is not believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from vitdet_d2.engine.class_names import find_classes

SAVED = {"thing_classes": ["ant", "bee"], "dataset_ids": [5, 9]}


def recipe(names: object = "coco_2017_val", **data: str):
    dataset = {"test": {"dataset": {"names": names}}}
    return OmegaConf.create({"dataloader": dataset, "data": data})


@pytest.fixture
def json_file(tmp_path: Path) -> str:
    categories = [{"id": 8, "name": "fly"}, {"id": 3, "name": "elk"}]
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    return str(path)


def test_the_checkpoint_comes_first(json_file: str) -> None:
    table = find_classes(recipe(val_json=json_file), SAVED, 2)
    assert (table.names, table.category_ids) == (("ant", "bee"), (5, 9))
    assert table.source == "the checkpoint"


@pytest.mark.parametrize("key", ["val_json", "train_json"])
def test_then_the_recipes_own_file_in_the_order_of_ids(json_file: str, key: str) -> None:
    table = find_classes(recipe(**{key: json_file}), None, 2)
    assert (table.names, table.category_ids) == (("elk", "fly"), (3, 8))


def test_then_the_registered_data_set() -> None:
    table = find_classes(recipe(), None, 80)
    assert (table.names[0], table.names[79]) == ("person", "toothbrush")
    assert (table.category_ids[0], table.category_ids[79]) == (1, 90)
    assert table.source == "data set coco_2017_val"
    assert find_classes(recipe(["coco_2017_val"]), None, 80) == table


def test_names_of_lvis_come_from_its_file(json_file: str) -> None:
    name = "insects_in_lvis_format"
    DatasetCatalog.register(name, list)
    try:
        MetadataCatalog.get(name).set(json_file=json_file, evaluator_type="lvis")
        table = find_classes(recipe(name), None, 2)
        assert (table.names, table.category_ids) == (("elk", "fly"), (3, 8))
        Path(json_file).unlink()
        assert find_classes(recipe(name), None, 2).names == ("class 0", "class 1")
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_digits_are_known_without_being_drawn() -> None:
    table = find_classes(recipe("digits_val"), None, 10)
    assert table.is_known
    assert len(set(table.names)) == 10


@pytest.mark.parametrize("saved", [None, {}, SAVED, {"thing_classes": None}])
def test_a_list_of_another_length_is_not_believed(saved: dict | None, json_file: str) -> None:
    table = find_classes(recipe(val_json=json_file), saved, 3)
    assert table.names == ("class 0", "class 1", "class 2")
    assert table.category_ids == (0, 1, 2)
    assert not table.is_known


def test_unknown_names_and_broken_files_are_passed_over(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    cfg = recipe("nobody_registered_this", val_json=str(broken), train_json=str(tmp_path / "none"))
    assert not find_classes(cfg, None, 1).is_known
    assert "nobody_registered_this" not in MetadataCatalog
    assert not find_classes(OmegaConf.create({}), None, 1).is_known


def test_names_without_ids_are_numbered() -> None:
    assert find_classes(recipe(), {"thing_classes": ["ant", "bee"]}, 2).category_ids == (0, 1)

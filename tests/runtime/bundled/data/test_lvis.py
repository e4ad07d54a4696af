# SPDX-License-Identifier: Apache-2.0
"""Detectron2's LVIS names in the bundled runtime: where they lead, and the class weights."""

from __future__ import annotations

import json
from collections.abc import Iterator

import detectron2.data.datasets
import detectron2.evaluation
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_lvis
from detectron2.data.detection_utils import get_fed_loss_cls_weights

import vitdet_d2.data.lvis
import vitdet_d2.evaluation
from tests.evaluation import toy_lvis
from vitdet_d2.errors import DataError

COUNTS = [60, 4, 4, 900, 900, 60]


@pytest.fixture(autouse=True)
def _own_catalogues() -> Iterator[None]:
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_names_are_ours():
    assert detectron2.evaluation.LVISEvaluator is vitdet_d2.evaluation.LVISEvaluator
    for name in ("load_lvis_json", "register_lvis_instances", "get_lvis_instances_meta"):
        ours = getattr(vitdet_d2.data.lvis, name)
        assert getattr(detectron2.data.datasets, name) is ours
        assert getattr(detectron2.data.datasets.lvis, name) is ours
    for module in (detectron2.data.datasets.lvis, detectron2.evaluation.lvis_evaluation):
        with pytest.raises(AttributeError, match=r"other is not part of the Detectron2 subset"):
            _ = module.other


def test_a_split_is_loaded_when_it_is_asked_for(tmp_path, monkeypatch):
    name = "toy_v1_train"
    splits = {name: "lvis/mine.json"}
    monkeypatch.setattr(detectron2.data.datasets.builtin, "_LVIS_SPLITS", splits)
    register_all_lvis(str(tmp_path))
    metadata = MetadataCatalog.get(name)
    assert metadata.get("thing_classes") is None
    (tmp_path / "lvis").mkdir()
    (tmp_path / "lvis/mine.json").write_text(json.dumps(toy_lvis.ground_truth(1)))
    records = DatasetCatalog.get(name)
    assert len(records) == 6
    assert records[0]["file_name"].startswith(f"{tmp_path}/coco/val2017/")
    assert len(metadata.thing_classes) == 6


def test_class_weights(tmp_path):
    name = toy_lvis.register("toy_weights", tmp_path, toy_lvis.ground_truth(1))
    np.testing.assert_allclose(get_fed_loss_cls_weights(name, 0.5), np.sqrt(COUNTS), rtol=1e-6)
    np.testing.assert_allclose(get_fed_loss_cls_weights([name, name]), COUNTS)
    (tmp_path / "toy_weights.json").unlink()
    MetadataCatalog.get(name).class_image_count = [
        {"id": 2, "image_count": 16},
        {"id": 1, "image_count": 9},
    ]
    assert get_fed_loss_cls_weights(name, 0.5).tolist() == [3.0, 4.0]
    other = toy_lvis.register("toy_others", tmp_path, toy_lvis.ground_truth(1))
    with pytest.raises(ValueError, match=r"'toy_weights' and 'toy_others' differ in class_image"):
        get_fed_loss_cls_weights([name, other])


def test_class_weights_without_the_file(tmp_path, monkeypatch, caplog):
    name = toy_lvis.register("toy_absent", tmp_path, toy_lvis.ground_truth(1))
    (tmp_path / "toy_absent.json").unlink()
    with pytest.raises(DataError, match=r"toy_absent\.json not found"):
        get_fed_loss_cls_weights(name)
    metadata = MetadataCatalog.get("lvis_v1_train")
    monkeypatch.setitem(metadata.__dict__, "json_file", str(tmp_path / "absent.json"))
    assert get_fed_loss_cls_weights("lvis_v1_train", 0.5).tolist() == [1.0] * 1203
    assert "until then the federated loss draws all classes alike" in caplog.text

# SPDX-License-Identifier: Apache-2.0
"""Data sets in LVIS's format: records, catalogues, class weights, and recipes that use them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from tests.checks.bad_coco import good
from tests.evaluation import toy_lvis
from vitdet_d2.data.class_frequencies import FederatedClassWeights, class_image_counts
from vitdet_d2.data.lvis import get_lvis_instances_meta, load_lvis_json, register_lvis_instances
from vitdet_d2.data.prepare import prepare_datasets
from vitdet_d2.data.registration import find_coco_files, register_coco_json
from vitdet_d2.errors import DataError


@pytest.fixture(autouse=True)
def _own_catalogues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test registers; keep repaired copies in the test's folder."""
    monkeypatch.setenv("VITDET_D2_CACHE", str(tmp_path / "cache"))
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """LVIS's layout: ``lvis/*.json``, and pictures in COCO's folders."""
    for split, seed in (("train", 1), ("val", 2)):
        document = toy_lvis.ground_truth(seed)
        (tmp_path / "lvis").mkdir(exist_ok=True)
        (tmp_path / f"lvis/lvis_v1_{split}.json").write_text(json.dumps(document))
        for image in document["images"]:
            path = tmp_path / "coco" / "/".join(image["coco_url"].split("/")[-2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (toy_lvis.WIDTH, toy_lvis.HEIGHT)).save(path)
    return tmp_path


def test_records(root):
    path = root / "lvis/lvis_v1_train.json"
    document = json.loads(path.read_text())
    records = load_lvis_json(path, str(root / "coco") + "/", "toy", ["area"])
    assert [record["image_id"] for record in records] == sorted(i["id"] for i in document["images"])
    record = next(record for record in records if record["image_id"] == 93)
    image = next(image for image in document["images"] if image["id"] == 93)
    assert record["file_name"] == str(root / "coco") + "/val2017/000000000093.jpg"
    assert (record["height"], record["width"]) == (toy_lvis.HEIGHT, toy_lvis.WIDTH)
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        assert record[key] == image[key]
    own = [a for a in document["annotations"] if a["image_id"] == 93]
    assert own
    classes = sorted(toy_lvis.CATEGORIES)
    expected = [
        {
            "bbox": a["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": classes.index(a["category_id"]),
            "segmentation": a["segmentation"],
            "area": a["area"],
        }
        for a in own
    ]
    assert record["annotations"] == expected
    metadata = MetadataCatalog.get("toy")
    assert metadata.thing_classes == [f"class_{number}" for number in classes]
    assert metadata.thing_dataset_id_to_contiguous_id == {n: i for i, n in enumerate(classes)}
    assert metadata.class_image_count[0] == {"id": 3, "image_count": 60}
    MetadataCatalog.remove("toy")


def test_coco_format_is_refused(tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(good()))
    with pytest.raises(DataError, match=r"coco\.json is not in LVIS's format.*COCO data set"):
        load_lvis_json(tmp_path / "coco.json", tmp_path)


def test_metadata_by_the_name_of_the_family(root):
    for split in ("train", "val"):
        path = root / f"lvis/lvis_v1_{split}.json"
        register_lvis_instances(f"toy_v1_{split}", {}, path, root / "coco")
    (root / "lvis/lvis_v1_train.json").unlink()
    assert get_lvis_instances_meta("toy_v1")["thing_classes"][0] == "class_3"
    with pytest.raises(DataError, match=r"lvis_v1_train\.json not found"):
        get_lvis_instances_meta("toy_v1_train")
    with pytest.raises(ValueError, match="no data set 'toy_v9'"):
        get_lvis_instances_meta("toy_v9")


def test_official_names_are_registered():
    for name in ("lvis_v1_train", "lvis_v1_val", "lvis_v1_test_dev"):
        assert name in DatasetCatalog.list()
        metadata = MetadataCatalog.get(name)
        assert metadata.evaluator_type == "lvis"
        assert metadata.image_root.endswith("coco/")
    assert MetadataCatalog.get("lvis_v1_val").json_file.endswith("lvis/lvis_v1_val.json")


def test_own_json_is_registered_as_what_it_is(root):
    checked = register_coco_json("mine", root / "lvis/lvis_v1_val.json", root / "coco")
    assert checked.json_file == root / "lvis/lvis_v1_val.json", "no copy, because nothing was wrong"
    metadata = MetadataCatalog.get("mine")
    assert metadata.evaluator_type == "lvis"
    assert len(metadata.class_image_count) == 6
    records = get_detection_dataset_dicts("mine", filter_empty=False)
    assert len(records) == 6
    assert all(Path(record["file_name"]).is_file() for record in records)


def test_files_are_found_by_their_folder(root):
    for split in ("train", "val"):
        files = find_coco_files(root / "lvis", None, split)
        assert files.json_file == root / f"lvis/lvis_v1_{split}.json"
        assert files.image_root == root / "coco"


def test_missing_pictures_are_named(root):
    (root / "coco/val2017/000000000093.jpg").unlink()
    with pytest.raises(DataError, match=r"images of .* are missing in .*val2017/000000000093\.jpg"):
        register_coco_json("mine", root / "lvis/lvis_v1_val.json", root / "coco")


def test_class_weights(root):
    for split in ("train", "val"):
        path = root / f"lvis/lvis_v1_{split}.json"
        register_lvis_instances(f"toy_{split}", {}, path, root / "coco")
    counts = [60, 4, 4, 900, 900, 60]
    weights = FederatedClassWeights(
        dataset_names="toy_train", freq_weight_power=0.5, num_classes=6
    )()
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights, np.sqrt(counts), rtol=1e-6)
    assert class_image_counts(["toy_train", "toy_val"]) == counts, "both speak of one training set"
    document = json.loads((root / "lvis/lvis_v1_val.json").read_text())
    document["categories"][0]["image_count"] = 6
    register_lvis_instances("toy_more", {}, root / "more.json", root / "coco")
    (root / "more.json").write_text(json.dumps(document))
    assert class_image_counts(["toy_train", "toy_more"]) == [120, 8, 10, 1800, 1800, 120]


@pytest.mark.parametrize("names", ["toy_absent", "not_registered", ["toy_train"]])
def test_without_frequencies_a_model_can_be_built(root, names, caplog):
    register_lvis_instances("toy_absent", {}, root / "absent.json", root / "coco")
    register_lvis_instances("toy_train", {}, root / "lvis/lvis_v1_train.json", root / "coco")
    weights = FederatedClassWeights(dataset_names=names, freq_weight_power=0.5, num_classes=9)()
    assert weights.tolist() == [1.0] * 9
    assert "no frequencies of 9 classes" in caplog.text


def _recipe(evaluator: str, **data: Any) -> DictConfig:
    return OmegaConf.create(
        {
            "data": data,
            "dataloader": {
                "train": {"dataset": {"names": "lvis_v1_train"}},
                "test": {"dataset": {"names": "lvis_v1_val"}},
                "evaluator": {"_target_": evaluator, "dataset_name": "${..test.dataset.names}"},
            },
            "model": {
                "roi_heads": {
                    "num_classes": 1203,
                    "box_predictor": {
                        "num_classes": "${..num_classes}",
                        "fed_loss_num_classes": 50,
                    },
                }
            },
        }
    )


OURS, COCOS = (f"vitdet_d2.evaluation.{name}" for name in ("LVISEvaluator", "COCOEvaluator"))


def test_a_recipe_follows_data_in_lvis_format(root):
    document = json.loads((root / "lvis/lvis_v1_train.json").read_text())
    document["categories"][0]["image_count"] = 0
    (root / "lvis/lvis_v1_train.json").write_text(json.dumps(document))
    cfg = _recipe(
        OURS, train_json=str(root / "lvis"), val_json=str(root / "lvis"), train_images=None
    )
    info = prepare_datasets(cfg)
    assert info.dataset_ids == (3, 5, 7, 9, 12, 40)
    assert cfg.model.roi_heads.num_classes == cfg.model.roi_heads.box_predictor.num_classes == 6
    assert cfg.model.roi_heads.box_predictor.fed_loss_num_classes == 5, "one class has no image"
    assert cfg.dataloader.evaluator.dataset_name == info.test_names[0]


def test_evaluations_by_the_other_formats_rules_are_refused_at_the_start(root):
    cfg = _recipe(COCOS, train_json=str(root / "lvis"), val_json=str(root / "lvis"))
    with pytest.raises(DataError, match="is in LVIS's format, which COCO's evaluation scores"):
        prepare_datasets(cfg)
    (root / "coco.json").write_text(json.dumps(good()))
    for image in good()["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(root / image["file_name"])
    cfg = _recipe(OURS, train_json=str(root / "coco.json"), val_json=str(root / "coco.json"))
    with pytest.raises(DataError, match=r"is in COCO's format, without 'frequency'.*take a COCO"):
        prepare_datasets(cfg)


def _register_as_detectron2(name: str, root: Path, module: str) -> None:
    def load() -> Any:
        pytest.fail("the loader was called")

    load.__module__ = module
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=str(root / "lvis/lvis_v1_train.json"),
        image_root=str(root / "coco/"),
        evaluator_type="lvis",
        note="kept",
    )


def test_detectron2s_own_loader_is_not_needed(root):
    """It stands on the package lvis; what else was noted on the data set stays."""
    name = "toy_official"
    _register_as_detectron2(name, root, "detectron2.data.datasets.lvis")
    cfg = _recipe(OURS)
    cfg.dataloader.train.dataset.names = cfg.dataloader.test.dataset.names = name
    assert len(prepare_datasets(cfg).thing_classes) == 6
    assert len(get_detection_dataset_dicts(name)) > 0
    metadata = MetadataCatalog.get(name)
    assert len(metadata.class_image_count) == 6
    assert metadata.note == "kept"


def test_a_loader_of_ones_own_is_kept(root):
    name = "toy_own_loader"
    _register_as_detectron2(name, root, "mine")
    loader = DatasetCatalog[name]
    cfg = _recipe(OURS)
    cfg.dataloader.train.dataset.names = cfg.dataloader.test.dataset.names = name
    prepare_datasets(cfg)
    assert DatasetCatalog[name] is loader
    assert len(MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id) == 6

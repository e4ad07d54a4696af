# SPDX-License-Identifier: Apache-2.0
"""Registration of COCO-format data, and how a recipe follows its data or is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from tests.checks.bad_coco import good
from vitdet_d2.data.prepare import class_count_key, prepare_datasets
from vitdet_d2.data.registration import find_coco_files, register_coco_folder, register_coco_json
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


def _write(folder: Path, document: dict[str, Any], json_name: str, images: str = ".") -> Path:
    """A data set on disk: its annotation file and a black picture for every entry."""
    path = folder / json_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    (folder / images).mkdir(parents=True, exist_ok=True)
    for image in document["images"]:
        size = image["width"], image["height"]
        Image.new("RGB", size).save(folder / images / image["file_name"])
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Train and val in COCO's layout."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        _write(root, good(), f"annotations/instances_{split}.json", f"images/{split}")
    return root


def _recipe(**data: Any) -> DictConfig:
    """The parts of a recipe that the preparation reads, as Detectron2's own recipes have them."""
    return OmegaConf.create(
        {
            "data": data,
            "dataloader": {
                "train": {
                    "dataset": {"names": "coco_2017_train"},
                    "mapper": {"use_instance_mask": True},
                },
                "test": {"dataset": {"names": "coco_2017_val", "filter_empty": False}},
                "evaluator": {"dataset_name": "${..test.dataset.names}"},
            },
            "model": {
                "roi_heads": {
                    "num_classes": 80,
                    "box_predictors": [{"num_classes": "${...num_classes}"}, {"num_classes": 80}],
                    "mask_head": {"num_classes": "${..num_classes}"},
                }
            },
        }
    )


def test_recipe_follows_its_data(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = _recipe(
        train_json=str(data / "annotations/instances_train.json"),
        train_images=str(data / "images/train"),
        val_json=str(data),
        keep_empty=True,
    )
    with caplog.at_level(logging.DEBUG, "vitdet_d2"):
        info = prepare_datasets(cfg)
    assert info.thing_classes == ("cat", "dog")
    assert info.dataset_ids == (3, 7)
    assert info.train_names == (cfg.dataloader.train.dataset.names,)
    assert info.test_names == (cfg.dataloader.evaluator.dataset_name,)
    assert info.train_names != info.test_names
    heads = cfg.model.roi_heads
    assert [heads.num_classes, heads.mask_head.num_classes] == [2, 2]
    assert [predictor.num_classes for predictor in heads.box_predictors] == [2, 2]
    assert cfg.dataloader.train.dataset.filter_empty is False
    records = DatasetCatalog.get(info.test_names[0])
    assert [record["file_name"] for record in records] == [
        str(data / "images/val" / name) for name in ("10.png", "20.png")
    ]
    assert "3      0  cat" in caplog.text
    assert "7      1  dog" in caplog.text


def test_one_mask_for_all_classes_stays_one(data: Path) -> None:
    cfg = _recipe(train_json=str(data), val_json=str(data))
    cfg.model.roi_heads.mask_head.num_classes = 1
    for _ in range(2):
        prepare_datasets(cfg)
        heads = cfg.model.roi_heads
        assert [heads.num_classes, heads.mask_head.num_classes] == [2, 1]


def test_a_detector_for_one_class_follows_its_data(data: Path) -> None:
    cfg = _recipe(train_json=str(data), val_json=str(data))
    cfg.model.roi_heads.num_classes = cfg.model.roi_heads.mask_head.num_classes = 1
    prepare_datasets(cfg)
    assert [cfg.model.roi_heads.num_classes, cfg.model.roi_heads.mask_head.num_classes] == [2, 2]


def test_preparing_twice_changes_nothing(data: Path) -> None:
    cfg = _recipe(train_json=str(data), val_json=str(data))
    first = prepare_datasets(cfg)
    before = OmegaConf.to_yaml(cfg)
    assert prepare_datasets(cfg) == first
    assert OmegaConf.to_yaml(cfg) == before


def test_evaluation_does_not_need_the_training_data(data: Path) -> None:
    cfg = _recipe(train_json="/nowhere", val_json=str(data))
    assert prepare_datasets(cfg, training=False).train_names == ()
    with pytest.raises(DataError, match=r"data\.train_json: annotation file /nowhere not found"):
        prepare_datasets(cfg)


def test_recipe_without_a_data_key(data: Path) -> None:
    for split in ("train", "val"):
        register_coco_folder(f"toy_{split}", data, split)
    cfg = _recipe()
    del cfg["data"]
    cfg.dataloader.train.dataset.names = ["toy_train"]
    cfg.dataloader.test.dataset.names = "toy_val"
    assert prepare_datasets(cfg).train_names == ("toy_train",)
    assert cfg.model.roi_heads.num_classes == 2
    assert "filter_empty" not in cfg.dataloader.train.dataset


def _swap_names(document: dict[str, Any]) -> None:
    document["categories"] = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]


def _other_name(document: dict[str, Any]) -> None:
    document["categories"][1]["name"] = "wolf"


def _crowds_only(document: dict[str, Any]) -> None:
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1


def _no_masks(document: dict[str, Any]) -> None:
    for annotation in document["annotations"]:
        annotation["segmentation"] = []


def _stray_category(document: dict[str, Any]) -> None:
    document["annotations"][1]["category_id"] = 333


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_swap_names, "classes of .* differ: class 0 is 'cat' and 'dog'; class 1 is 'dog' and"),
        (_other_name, "differ: only in the first: 'dog'; only in the second: 'wolf'; give both"),
        (_crowds_only, "nothing to train on: .* 2 images: 0 with instances, 2 with crowds only"),
        (_no_masks, r"3 instances have no 'segmentation'.*use_instance_mask=false"),
        (_stray_category, r"annotation 2 \(image 10\): category_id 333 is not in 'categories'"),
    ],
)
def test_unusable_data_is_refused(data: Path, change: Any, message: str) -> None:
    document = good()
    change(document)
    # Differing classes show in the evaluation data, all else in the training data.
    split = "val" if change in (_swap_names, _other_name) else "train"
    _write(data, document, f"annotations/instances_{split}.json", f"images/{split}")
    with pytest.raises(DataError, match=message) as caught:
        prepare_datasets(_recipe(train_json=str(data), val_json=str(data)))
    assert "\n" not in str(caught.value)


def test_a_dense_detector_follows_its_data_and_needs_no_masks(data: Path) -> None:
    document = good()
    _no_masks(document)
    _write(data, document, "annotations/instances_train.json", "images/train")
    cfg = _recipe(train_json=str(data), val_json=str(data))
    cfg.model = {"num_classes": 80, "head": {"num_classes": "${..num_classes}"}}
    assert class_count_key(cfg) == "model.num_classes"
    cure = "which its model has no use for; set dataloader.train.mapper.use_instance_mask=false"
    with pytest.raises(DataError, match=cure):
        prepare_datasets(cfg)
    cfg.dataloader.train.mapper.use_instance_mask = False
    prepare_datasets(cfg)
    assert [cfg.model.num_classes, cfg.model.head.num_classes] == [2, 2]
    assert OmegaConf.is_interpolation(cfg.model.head, "num_classes")


def test_boxes_only_need_no_masks(data: Path) -> None:
    document = good()
    _no_masks(document)
    _write(data, document, "annotations/instances_train.json", "images/train")
    cfg = _recipe(train_json=str(data), val_json=str(data))
    cfg.dataloader.train.mapper.use_instance_mask = False
    assert prepare_datasets(cfg).thing_classes == ("cat", "dog")


def test_scoring_masks_needs_masks(data: Path) -> None:
    document = good()
    _no_masks(document)
    _write(data, document, "annotations/instances_val.json", "images/val")

    def prepare(heads: dict[str, Any], evaluator: dict[str, Any]) -> None:
        cfg = _recipe(train_json=str(data), val_json=str(data))
        cfg.model.roi_heads.update(heads)
        cfg.dataloader.evaluator.update(evaluator)
        prepare_datasets(cfg)

    message = r"3 instances have no 'segmentation'.*\+dataloader\.evaluator\.tasks=\[bbox\]"
    for tasks in (None, ["bbox", "segm"]):
        with pytest.raises(DataError, match=message):
            prepare({"mask_in_features": ["p2"]}, {"tasks": tasks})
    prepare({"mask_in_features": ["p2"]}, {"tasks": ["bbox"]})
    prepare({"mask_in_features": None}, {})


def test_run_length_masks_need_bitmasks(data: Path) -> None:
    document = good()
    document["annotations"][0]["segmentation"] = {"size": [40, 60], "counts": [400, 2000]}
    _write(data, document, "annotations/instances_train.json", "images/train")
    cfg = _recipe(train_json=str(data), val_json=str(data))
    prepare_datasets(cfg)
    assert cfg.dataloader.train.mapper.instance_mask_format == "bitmask"


def test_classes_with_other_ids_in_the_same_order_are_the_same(data: Path) -> None:
    text = json.dumps(good()).replace('_id": 3', '_id": 0').replace('_id": 7', '_id": 1')
    document = json.loads(text)
    document["categories"] = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    _write(data, document, "annotations/instances_val.json", "images/val")
    info = prepare_datasets(_recipe(train_json=str(data), val_json=str(data)))
    assert info.dataset_ids == (3, 7)
    assert MetadataCatalog.get(info.test_names[0]).thing_dataset_id_to_contiguous_id == {0: 0, 1: 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("digits_trian", r"'digits_trian' is not registered.*data\.train_json"),
        ("coco_2017_trian", r"is not registered \(did you mean coco_2017_train"),
        ([], r"no data set named in dataloader\.train\.dataset\.names"),
    ],
)
def test_unknown_names_are_explained(data: Path, names: Any, message: str) -> None:
    cfg = _recipe(val_json=str(data))
    cfg.dataloader.train.dataset.names = names
    with pytest.raises(DataError, match=message):
        prepare_datasets(cfg)


def test_missing_builtin_data_name_the_variable(data: Path) -> None:
    DatasetCatalog.register("toy_builtin", list)
    MetadataCatalog.get("toy_builtin").set(json_file="/nowhere/a.json", evaluator_type="coco")
    cfg = _recipe(val_json=str(data))
    cfg.dataloader.train.dataset.names = "toy_builtin"
    with pytest.raises(DataError, match=r"/nowhere/a\.json not found; set DETECTRON2_DATASETS"):
        prepare_datasets(cfg)


def test_registered_classes_must_be_those_of_the_file(data: Path) -> None:
    DatasetCatalog.register("toy_other", list)
    MetadataCatalog.get("toy_other").set(
        json_file=str(data / "annotations/instances_train.json"),
        image_root=str(data / "images/train"),
        evaluator_type="coco",
        thing_classes=["cat", "dog", "cow"],
    )
    cfg = _recipe(val_json=str(data))
    cfg.dataloader.train.dataset.names = "toy_other"
    with pytest.raises(DataError, match=r"other classes than .*only in the second: 'cow'"):
        prepare_datasets(cfg)


def test_names_of_lists_without_a_file_are_accepted(data: Path) -> None:
    DatasetCatalog.register("toy_list", list)
    MetadataCatalog.get("toy_list").set(thing_classes=["cat", "dog"])
    cfg = _recipe(val_json=str(data))
    cfg.dataloader.train.dataset.names = "toy_list"
    assert prepare_datasets(cfg).thing_classes == ("cat", "dog")


def test_evaluators_with_a_name_of_their_own_are_pointed_at_the_data(data: Path) -> None:
    cfg = _recipe(train_json=str(data), val_json=str(data))
    cfg.dataloader.evaluator = [{"dataset_name": "coco_2017_val"}, {"dataset_name": "x"}]
    info = prepare_datasets(cfg)
    assert {node.dataset_name for node in cfg.dataloader.evaluator} == set(info.test_names)


def test_identical_registration_again_is_nothing(data: Path) -> None:
    first = register_coco_folder("toy", data, "train")
    assert register_coco_folder("toy", data, "train") == first
    with pytest.raises(DataError, match="'toy' is already registered with other files"):
        register_coco_folder("toy", data, "val")


def test_repaired_copy_is_registered_and_the_file_left_alone(data: Path, tmp_path: Path) -> None:
    document = good()
    for annotation in document["annotations"]:
        annotation["id"] = 0
    path = _write(data, document, "annotations/instances_train.json", "images/train")
    before = path.read_bytes()
    checked = register_coco_json("toy", path, data / "images/train")
    assert checked.json_file.parent == tmp_path / "cache" / "annotations"
    assert MetadataCatalog.get("toy").json_file == str(checked.json_file)
    assert path.read_bytes() == before
    written = json.loads(checked.json_file.read_text())
    assert [annotation["id"] for annotation in written["annotations"]] == [1, 2, 3]
    assert sum(len(record["annotations"]) for record in DatasetCatalog.get("toy")) == 3


def test_edited_file_is_checked_and_registered_again(data: Path) -> None:
    path = data / "annotations/instances_train.json"
    register_coco_json("toy", path, data / "images/train")
    document = good()
    document["annotations"][0]["id"] = 0
    document["categories"][0]["name"] = "lynx"
    path.write_text(json.dumps(document))
    register_coco_json("toy", path, data / "images/train")
    assert MetadataCatalog.get("toy").thing_classes == ["lynx", "dog"]
    path.write_text("{}")
    with pytest.raises(DataError, match="expected a list 'images'"):
        register_coco_json("toy", path, data / "images/train")


def test_roboflow_root_category_is_dropped_when_unused(tmp_path: Path) -> None:
    document = good()
    document["categories"] = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": "pets"},
        {"id": 7, "name": "dog", "supercategory": "pets"},
    ]
    _write(tmp_path / "export", document, "train/_annotations.coco.json", "train")
    checked = register_coco_folder("toy", tmp_path / "export", "train")
    assert checked.report.category_names == ("cat", "dog")
    assert MetadataCatalog.get("toy").thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    document["annotations"][0]["category_id"] = 0
    _write(tmp_path / "export", document, "valid/_annotations.coco.json", "valid")
    checked = register_coco_folder("toy_val", tmp_path / "export", "val")
    assert checked.report.category_names == ("pets", "cat", "dog")


@pytest.mark.parametrize(
    ("json_name", "images", "named"),
    [
        ("_annotations.coco.json", ".", "."),
        ("valid/_annotations.coco.json", "valid", "."),
        ("annotations/instances_val2017.json", "val2017", "."),
        ("annotations/instances_val2017.json", "val2017", "val2017"),
        ("annotations/instances_val.json", "images/val", "images/val"),
        ("annotations/my_val_set.json", "images", "."),
        ("annotations/only.json", "annotations/images", "annotations/only.json"),
        ("only.json", ".", "."),
    ],
)
def test_layouts_that_are_found(tmp_path: Path, json_name: str, images: str, named: str) -> None:
    path = _write(tmp_path, good(), json_name, images)
    files = find_coco_files(tmp_path / named, None, "val")
    assert files.json_file.resolve() == path.resolve()
    assert files.image_root.resolve() == (tmp_path / images).resolve()


def test_unclear_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotation file in .*: expected _annotations"):
        find_coco_files(tmp_path, None, "val")
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(good()))
    with pytest.raises(DataError, match=r"more than one annotation file for val: a\.json, b\.json"):
        find_coco_files(tmp_path, None, "val")
    with pytest.raises(DataError, match=r"images of .*a\.json are not where they are looked for"):
        find_coco_files(tmp_path / "a.json", None, "val")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match=r"a\.json: expected a COCO annotation file, .* got list"):
        find_coco_files(tmp_path / "a.json", None, "val")
    with pytest.raises(DataError, match="no val data named"):
        find_coco_files(None, None, "val")

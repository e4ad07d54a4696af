# SPDX-License-Identifier: Apache-2.0
"""The embedded digits: what is in them, that they are the same everywhere, and never half there."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from vitdet_d2.checks import check_coco_annotations
from vitdet_d2.data import digits
from vitdet_d2.data.digits import DigitsPaths, build_digits, load_samples, split_samples
from vitdet_d2.errors import DataError

# pycocotools 2.0.11 decodes with an `__array__` that numpy 2 finds outdated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = {"num_train": 40, "num_val": 10}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> DigitsPaths:
    return build_digits(tmp_path_factory.mktemp("digits"), **SIZE)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _documents(paths: DigitsPaths) -> Iterator[tuple[dict[str, Any], Path]]:
    for json_file, images in (
        (paths.train_json, paths.train_images),
        (paths.val_json, paths.val_images),
    ):
        yield json.loads(json_file.read_text()), images


def test_same_bytes_every_time(built: DigitsPaths, tmp_path: Path) -> None:
    again = build_digits(tmp_path, **SIZE)
    assert again.root.name == built.root.name
    assert _files(again.root) == _files(built.root)


def test_same_annotations_on_every_machine(built: DigitsPaths) -> None:
    # Measured with numpy 2.4.6 and Pillow 13.0.0 on x86-64, generator version 3.
    content = built.train_json.read_bytes() + built.val_json.read_bytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "536cd3f2155f49cf"


def test_other_settings_make_other_data(built: DigitsPaths, tmp_path: Path) -> None:
    other = build_digits(tmp_path, num_train=1, num_val=1, image_size=256, seed=1)
    assert other.root.name != built.root.name
    with Image.open(other.train_images / "000001.jpg") as picture:
        assert picture.size == (256, 256)


def test_annotations_are_valid_coco(built: DigitsPaths) -> None:
    for split, (document, images) in zip(("train", "val"), _documents(built), strict=True):
        report = check_coco_annotations(document, images)
        assert report.repairs == ()
        assert report.num_usable == report.num_images == SIZE[f"num_{split}"]
        assert report.category_names == tuple("0123456789")
        assert report.num_rle_masks == sum(report.instances_per_class)


def test_one_to_eight_digits_of_an_eighth_to_half_the_side(built: DigitsPaths) -> None:
    counts = []
    for document, _ in _documents(built):
        images = [annotation["image_id"] for annotation in document["annotations"]]
        counts += np.bincount(images)[1:].tolist()
        for annotation in document["annotations"]:
            assert 192 / 8 <= max(annotation["bbox"][2:]) <= 192 / 2
    assert set(counts) == set(range(1, 9))


def test_masks_are_disjoint_and_fit_boxes_and_areas(built: DigitsPaths) -> None:
    for document, _ in _documents(built):
        covered: dict[int, np.ndarray] = {}
        for annotation in document["annotations"]:
            mask = coco_mask.decode(annotation["segmentation"]).astype(int)
            assert coco_mask.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
            assert mask.sum() == annotation["area"]
            image = annotation["image_id"]
            covered[image] = covered.get(image, 0) + mask
        assert max(total.max() for total in covered.values()) == 1


def test_ink_differs_from_what_is_around_it(built: DigitsPaths) -> None:
    contrasts = []
    for document, images in _documents(built):
        masks: dict[int, list[np.ndarray]] = {}
        for annotation in document["annotations"]:
            mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
            masks.setdefault(annotation["image_id"], []).append(mask)
        for image, found in masks.items():
            with Image.open(images / f"{image:06d}.jpg") as picture:
                grey = np.asarray(picture.convert("L"), dtype=float)
            background = ~np.any(found, axis=0)
            contrasts += [abs(grey[mask].mean() - grey[background].mean()) for mask in found]
    # 70 grey levels by construction; soft edges and uneven backgrounds take their part.
    assert np.mean(contrasts) > 60
    assert np.mean(np.array(contrasts) < 30) < 0.05


def test_zeros_have_holes(built: DigitsPaths) -> None:
    document = json.loads(built.train_json.read_text())
    zeros = [a for a in document["annotations"] if a["category_id"] == 1]
    with_hole = 0
    for zero in zeros:
        left, top, width, height = (int(value) for value in zero["bbox"])
        mask = coco_mask.decode(zero["segmentation"])[top : top + height, left : left + width]
        middle = mask[height // 3 : -(height // 3), width // 3 : -(width // 3)]
        with_hole += not middle.all()
    assert with_hole > 0.8 * len(zeros) > 0


def test_held_out_images_show_unseen_samples_only(built: DigitsPaths) -> None:
    scans, classes = load_samples()
    train, val = split_samples(classes, 0)
    assert sorted([*train, *val]) == list(range(1797))
    assert 0.18 < len(val) / 1797 < 0.2
    shares = np.bincount(classes[val]) / np.bincount(classes)
    assert shares.min() > 0.19
    # Not even a copy of a training sample is held out.
    assert not {scans[i].tobytes() for i in train} & {scans[i].tobytes() for i in val}
    for (document, _), members in zip(_documents(built), (train, val), strict=True):
        used = {annotation["sample"] for annotation in document["annotations"]}
        assert used
        assert used <= set(members.tolist())
        for annotation in document["annotations"]:
            assert classes[annotation["sample"]] == annotation["category_id"] - 1


def test_whole_data_set_is_not_drawn_again(
    built: DigitsPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "_build", lambda *_: pytest.fail("drawn again"))
    assert build_digits(built.root.parent, **SIZE) == built


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "train" / "000007.jpg").unlink(),
        lambda root: (root / "val" / "000003.jpg").write_bytes(b"half"),
        lambda root: (root / "manifest.json").write_text("{"),
        lambda root: (root / "manifest.json").unlink(),
        lambda root: _flip(root / "annotations" / "instances_val.json"),
        lambda root: shutil.rmtree(root / "annotations"),
    ],
)  # fmt: skip
def test_damaged_cache_is_drawn_again(built: DigitsPaths, tmp_path: Path, damage: Any) -> None:
    copy = tmp_path / built.root.name
    shutil.copytree(built.root, copy)
    damage(copy)
    assert build_digits(tmp_path, **SIZE).root == copy
    assert _files(copy) == _files(built.root)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", copy.name]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "_write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        build_digits(tmp_path, num_train=2, num_val=1)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_builders_at_the_same_time_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(build_digits, tmp_path, num_train=2, num_val=1) for _ in range(4)]
    roots = {job.result().root for job in jobs}
    assert len(roots) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", roots.pop().name]


def test_missing_scikit_learn_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"needs scikit-learn.*pip install 'vitdet_d2\[quick"):
        build_digits(tmp_path, num_train=1, num_val=1)


def test_bad_arguments_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected num_train >= 1.* got 0, 1 and 192"):
        build_digits(tmp_path, num_train=0, num_val=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write the data set below .*VITDET_D2_CACHE"):
        build_digits(tmp_path / "file" / "digits", num_train=1, num_val=1)


@pytest.fixture
def small_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own and few images, so that loading the registered names is quick."""
    monkeypatch.setenv("VITDET_D2_CACHE", str(tmp_path))
    for name, value in SIZE.items():
        monkeypatch.setattr(digits, name.upper(), value)
        monkeypatch.setitem(build_digits.__kwdefaults__, name, value)
    saved = {name: DatasetCatalog.pop(name, None) for name in ("digits_train", "digits_val")}
    kept = {name: MetadataCatalog.pop(name, None) for name in saved}
    yield tmp_path
    for catalog, entries in ((DatasetCatalog, saved), (MetadataCatalog, kept)):
        for name, entry in entries.items():
            catalog.pop(name, None)
            if entry is not None:
                catalog[name] = entry


def test_registered_names_are_drawn_when_loaded(small_digits: Path) -> None:
    digits.register_digits()
    digits.register_digits()
    assert not (small_digits / "digits").exists()
    metadata = MetadataCatalog.get("digits_val")
    assert metadata.thing_classes == list("0123456789")
    records = DatasetCatalog.get("digits_val")
    assert Path(metadata.json_file).is_file()
    assert len(records) == SIZE["num_val"]
    assert len(DatasetCatalog.get("digits_train")) == SIZE["num_train"]
    assert Path(records[0]["file_name"]).parent == Path(metadata.image_root)
    labels = {a["category_id"] for record in records for a in record["annotations"]}
    assert labels <= set(range(10))
    assert len(labels) > 5

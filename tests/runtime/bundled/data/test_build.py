# SPDX-License-Identifier: Apache-2.0
"""From names to loaders: filtering, checks, batches in their order."""

from __future__ import annotations

import logging
from itertools import islice

import pytest
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    print_instances_class_histogram,
)
from detectron2.data import build as build_module
from detectron2.data.samplers import TrainingSampler
from torch.utils.data import Dataset, IterableDataset

from tests.runtime.bundled.data.images import make_records
from vitdet_d2.errors import DataError

WIDE, TALL = (4, 6), (6, 4)


def _record(number, *annotations):
    return {"image_id": number, "annotations": list(annotations)}


THING = {"category_id": 0}
CROWD = {"category_id": 0, "iscrowd": 1}


@pytest.fixture
def register():
    names = []

    def add(name, records, classes=("cup", "dog")):
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).thing_classes = list(classes)
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_empty_and_crowded_images_are_left_out(register, caplog):
    name = register(
        "test_build_a", [_record(1, THING), _record(2), _record(3, CROWD), _record(4, CROWD, THING)]
    )
    with caplog.at_level(logging.INFO, logger="detectron2"):
        records = get_detection_dataset_dicts(name)
    assert [r["image_id"] for r in records] == [1, 4]
    assert "left out 2 of 4 images: 1 without annotations, 1 with crowds only" in caplog.text
    assert "2 objects of 2 classes" in caplog.text
    assert "cup: 2" in caplog.text
    assert len(get_detection_dataset_dicts(name, filter_empty=False)) == 4


def test_several_data_sets_in_order(register):
    a = register("test_build_a", [_record(1, THING)])
    b = register("test_build_b", [_record(2, THING)])
    other = register("test_build_c", [_record(3, THING)], classes=["cat"])
    assert [r["image_id"] for r in get_detection_dataset_dicts([b, a])] == [2, 1]
    with pytest.raises(ValueError, match=r"'test_build_a' and 'test_build_c' differ"):
        get_detection_dataset_dicts([a, other])
    assert len(get_detection_dataset_dicts([a, other], check_consistency=False)) == 2


def test_nothing_left_is_an_error(register):
    crowds = register("test_build_a", [_record(1, CROWD), _record(2)])
    with pytest.raises(DataError, match=r"none of the 2 images of test_build_a has an object"):
        get_detection_dataset_dicts(crowds)
    nothing = register("test_build_b", [])
    with pytest.raises(DataError, match=r"'test_build_b' has no images"):
        get_detection_dataset_dicts(nothing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": []}, r"names is empty"),
        ({"names": "x", "min_keypoints": 1}, r"keypoints and proposal files"),
        ({"names": "x", "proposal_files": ["p"]}, r"keypoints and proposal files"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_detection_dataset_dicts(**arguments)


def test_class_outside_the_names_is_named():
    with pytest.raises(ValueError, match=r"a.jpg has an object of class 2, the data set has 2"):
        print_instances_class_histogram(
            [{"file_name": "a.jpg", "annotations": [{"category_id": 2}]}], ["cup", "dog"]
        )


class _Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"number": index}


class _Stream(IterableDataset):
    def __iter__(self):
        return ({"number": n} for n in range(4))


def test_registered_torch_data_sets(register):
    a, b = register("test_build_a", _Numbers()), register("test_build_b", _Numbers())
    assert len(get_detection_dataset_dicts([a, b])) == 8
    assert get_detection_dataset_dicts(a)[3] == {"number": 3}


def _sizes(batch):
    return [(sample["height"], sample["width"]) for sample in batch]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_batches_hold_one_orientation(tmp_path, num_workers):
    records = make_records(tmp_path, [WIDE, TALL, WIDE, WIDE, TALL, TALL, TALL])
    mapper = DatasetMapper(True, augmentations=[], image_format="RGB")
    loader = build_detection_train_loader(
        records,
        mapper=mapper,
        sampler=TrainingSampler(len(records), seed=1),
        total_batch_size=2,
        num_workers=num_workers,
    )
    batches = list(islice(loader, 8))
    assert all(len(set(_sizes(batch))) == 1 for batch in batches)
    assert {size for batch in batches for size in _sizes(batch)} == {WIDE, TALL}
    if num_workers == 0:
        # the stream, distributed by hand
        waiting, expected = {True: [], False: []}, []
        for index in islice(TrainingSampler(len(records), seed=1), 40):
            bucket = waiting[records[index]["width"] > records[index]["height"]]
            bucket.append(index)
            if len(bucket) == 2:
                expected.append(bucket[:])
                bucket.clear()
        assert [[s["image_id"] for s in batch] for batch in batches] == expected[:8]


def test_training_without_groups_keeps_the_order(tmp_path):
    records = make_records(tmp_path, [WIDE, TALL, WIDE])
    loader = build_detection_train_loader(
        records,
        mapper=None,
        sampler=TrainingSampler(3, seed=4),
        total_batch_size=2,
        aspect_ratio_grouping=False,
        collate_fn=lambda batch: [r["image_id"] for r in batch],
    )
    order = list(islice(TrainingSampler(3, seed=4), 6))
    assert list(islice(loader, 3)) == [order[:2], order[2:4], order[4:]]


def test_test_loader_visits_everything_once(tmp_path):
    records = make_records(tmp_path, [WIDE, TALL, WIDE])
    mapper = DatasetMapper(False, augmentations=[], image_format="RGB")
    loader = build_detection_test_loader(records, mapper=mapper, batch_size=2)
    assert len(loader) == 2
    assert [[s["image_id"] for s in batch] for batch in loader] == [[0, 1], [2]]
    stream = build_detection_test_loader(_Stream(), mapper=None)
    assert [batch[0]["number"] for batch in stream] == [0, 1, 2, 3]


def test_loader_arguments_that_do_not_fit(monkeypatch):
    sampler = TrainingSampler(4, seed=0)
    with pytest.raises(ValueError, match=r"sampler must be None"):
        build_detection_test_loader(_Stream(), mapper=None, sampler=sampler)
    with pytest.raises(ValueError, match=r"sampler must be None"):
        build_detection_train_loader(_Stream(), mapper=None, sampler=sampler, total_batch_size=1)
    with pytest.raises(ValueError, match=r"not both"):
        build_detection_train_loader([{}], mapper=None, total_batch_size=1, single_gpu_batch_size=1)
    with pytest.raises(ValueError, match=r"drop_last=False"):
        build_detection_train_loader([{}], mapper=None, total_batch_size=1, drop_last=False)
    monkeypatch.setattr(build_module, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"positive multiple of the 2 processes, got 3"):
        build_detection_train_loader([{}], mapper=None, total_batch_size=3)

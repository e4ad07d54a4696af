# SPDX-License-Identifier: Apache-2.0
"""Mappers and loaders from a yacs configuration."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import BitMasks

from tests.runtime.bundled.data.images import make_records


@pytest.fixture
def cfg(tmp_path: Path) -> Iterator[CfgNode]:
    records = make_records(tmp_path, [(20, 30), (30, 20), (24, 36), (36, 24), (20, 30)])
    records[4]["annotations"] = []
    DatasetCatalog.register("from_cfg", lambda: records)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("from_cfg",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (40,), 10
    cfg.MODEL.MASK_ON = True
    cfg.SEED = 3
    yield cfg
    DatasetCatalog.remove("from_cfg")


def test_training_batches(cfg: CfgNode) -> None:
    batches = list(islice(build_detection_train_loader(cfg), 3))
    assert [len(batch) for batch in batches] == [2, 2, 2]
    for batch in batches:
        assert len({x["width"] > x["height"] for x in batch}) == 1  # grouped by shape
        for x in batch:
            assert min(x["image"].shape[1:]) == 40
            assert x["instances"].has("gt_masks")
            assert x["image_id"] != 4  # the one without objects


def test_what_is_given_wins(cfg: CfgNode) -> None:
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    loader = build_detection_train_loader(
        cfg,
        mapper=lambda record: record["image_id"],
        dataset=[{"image_id": i} for i in range(4)],
        sampler=TrainingSampler(4, shuffle=False),
        total_batch_size=3,
    )
    assert list(islice(loader, 2)) == [[0, 1, 2], [3, 0, 1]]


def test_every_test_image_once(cfg: CfgNode) -> None:
    found = list(build_detection_test_loader(cfg, "from_cfg"))
    assert [batch[0]["image_id"] for batch in found] == [0, 1, 2, 3, 4]
    assert {min(batch[0]["image"].shape[1:]) for batch in found} == {10}
    assert "instances" not in found[0][0]
    mapped = build_detection_test_loader(cfg, ["from_cfg"], mapper=lambda record: record["width"])
    assert next(iter(mapped)) == [30]


@pytest.mark.parametrize(
    ("name", "keys", "counts"),
    [
        ("TrainingSampler", {}, {0: 2, 1: 2, 2: 2, 3: 2}),
        # Class 0 is in half of the images, the others in a quarter: 2, rounded at random, or 4.
        ("RepeatFactorTrainingSampler", {"REPEAT_THRESHOLD": 1.0, "REPEAT_SQRT": False}, None),
        ("RandomSubsetTrainingSampler", {"RANDOM_SUBSET_RATIO": 0.5}, None),
    ],
)
def test_samplers(cfg: CfgNode, name: str, keys: dict[str, Any], counts: Any) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = name
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    for key, value in keys.items():
        cfg.DATALOADER[key] = value
    loader = build_detection_train_loader(cfg, mapper=lambda record: record["image_id"])
    seen = [number for batch in islice(loader, 6) for number in batch]
    if name == "RepeatFactorTrainingSampler":
        counts = {0: 2, 3: 2, 1: 4, 2: 4}
    elif name == "RandomSubsetTrainingSampler":
        assert len(set(seen)) == 2
        return
    else:
        seen = seen[:8]
    assert {number: seen.count(number) for number in set(seen)} == counts


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATALOADER.SAMPLER_TRAIN", "Mine", r"SAMPLER_TRAIN: expected one of TrainingSampler"),
        ("MODEL.KEYPOINT_ON", True, r"MODEL\.KEYPOINT_ON: expected False"),
        ("MODEL.LOAD_PROPOSALS", True, r"MODEL\.LOAD_PROPOSALS: expected False"),
        ("INPUT.RANDOM_FLIP", "both", r"INPUT\.RANDOM_FLIP: expected one of .* got 'both'"),
    ],
)
def test_wrong_keys(cfg: CfgNode, key: str, value: Any, message: str) -> None:
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        build_detection_train_loader(cfg)


def test_augmentations() -> None:
    cfg = get_cfg()
    resize, flip = build_augmentation(cfg, is_train=True)
    assert isinstance(resize, T.ResizeShortestEdge)
    assert (resize.short_edge_length, resize.max_size, resize.is_range) == ((800,), 1333, False)
    assert isinstance(flip, T.RandomFlip)
    cfg.INPUT.RANDOM_FLIP = "none"
    assert len(build_augmentation(cfg, is_train=True)) == 1
    cfg.INPUT.MIN_SIZE_TEST = 7
    (resize,) = build_augmentation(cfg, is_train=False)
    assert resize.short_edge_length == (7, 7)  # type: ignore[union-attr]


def test_mapper_with_a_crop(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [10, 12]
    cfg.INPUT.MASK_FORMAT, cfg.INPUT.FORMAT = "bitmask", "L"
    mapper = DatasetMapper(cfg)
    assert mapper.recompute_boxes
    sample = mapper(make_records(tmp_path, [(20, 30)])[0])
    assert sample["image"].shape == (1, 40, 48)  # the crop, resized
    assert isinstance(sample["instances"].gt_masks, BitMasks)
    assert not DatasetMapper(cfg, False).recompute_boxes
    assert DatasetMapper(cfg, is_train=False, image_format="RGB").image_format == "RGB"

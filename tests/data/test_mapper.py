# SPDX-License-Identifier: Apache-2.0
"""Our mapper against Detectron2's, on images without objects and on files that are none."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detectron2 import data as detectron2_data
from detectron2.data import transforms as T
from PIL import Image

from tests.runtime.bundled.data.images import box_annotation, make_records, pixels, save_image
from vitdet_d2.data.fixed_size_crop import FixedSizeCrop
from vitdet_d2.data.load_failures import UnreadableImageError
from vitdet_d2.data.mapper import DatasetMapper
from vitdet_d2.errors import DataError


def _mapper(cls=DatasetMapper, **arguments):
    return cls(
        True,
        augmentations=[T.ResizeShortestEdge(8)],
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=True,
        **arguments,
    )


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("annotations", [[], [box_annotation(0, 0, 2, 2, 0, iscrowd=1)]])
def test_image_without_objects(tmp_path, mask_format, annotations):
    (record,) = make_records(tmp_path, [(4, 6)])
    record["annotations"] = annotations
    sample = _mapper(instance_mask_format=mask_format)(record)
    instances = sample["instances"]
    assert sample["image"].shape == (3, 8, 12)
    assert instances.image_size == (8, 12)
    assert len(instances) == len(instances.gt_masks) == len(instances.gt_classes) == 0
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert "annotations" not in sample
    assert record["annotations"] is annotations


def test_other_images_are_detectron2s(tmp_path):
    (record,) = make_records(tmp_path, [(4, 6)])
    ours, theirs = _mapper()(record), _mapper(detectron2_data.DatasetMapper)(record)
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    assert torch.equal(ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)
    assert len(ours["instances"]) == 1


@pytest.mark.parametrize("content", [b"", b"<html>", None])
def test_unreadable_file_is_named(tmp_path, content):
    (record,) = make_records(tmp_path, [(4, 6)])
    path = tmp_path / "000.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"^cannot read image .*000.png: [^<]+$") as e:
        _mapper()(record)
    assert isinstance(e.value, DataError)
    assert isinstance(e.value, OSError)  # what the training loader takes as a reason to skip


def test_test_mapper_leaves_instances_out(tmp_path):
    (record,) = make_records(tmp_path, [(4, 6)])
    record["annotations"] = []
    sample = DatasetMapper(False, augmentations=[], image_format="RGB")(record)
    assert "instances" not in sample


LSJ = [
    T.RandomFlip(horizontal=True),
    T.ResizeScale(0.1, 2.0, 64, 64),
    FixedSizeCrop((64, 64), pad=False),
]
CHAINS = {
    "large_scale_jitter": LSJ,
    "one_scale": [T.ResizeShortestEdge((40, 60), 90), T.RandomFlip(horizontal=True)],
    "padded": [T.ResizeScale(0.1, 2.0, 64, 64), FixedSizeCrop((64, 64), pad=True), T.RandomFlip()],
    "pixels_between": [LSJ[0], T.RandomBrightness(0.5, 1.5), *LSJ[1:], T.RandomSaturation(0.5, 2)],
    "sometimes": [T.RandomApply(LSJ[1], 0.5), LSJ[0]],
    "nothing": [],
}


def _record(folder, name="a.jpg", size=(53, 71)):
    rng = np.random.default_rng(5)
    noisy = pixels(*size) // 2 + rng.integers(0, 128, (*size, 3), dtype=np.uint8)
    Image.fromarray(noisy).save(folder / name)
    triangle = box_annotation(10, 5, 40, 30, 1)
    triangle["segmentation"] = [[10.0, 5, 50, 8, 20, 35], [60.0, 30, 66, 31, 64, 40]]
    return {
        "file_name": str(folder / name),
        "height": size[0],
        "width": size[1],
        "image_id": 7,
        "not_exhaustive_category_ids": [3, 4],
        "annotations": [
            box_annotation(20.5, 18.25, 30, 20, 2),
            triangle,
            box_annotation(1, 1, 5, 5, 0, iscrowd=1),
            box_annotation(66, 47, 3, 4, 0),
        ],
    }


def _sample(mapper, record, seed):
    np.random.seed(seed)
    return mapper(record), np.random.uniform()


def _assert_equal(ours, theirs):
    """Compare samples: all but the polygons, whose corners may come in another order."""
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    rest = ours.keys() - {"image", "instances"}
    assert {k: ours[k] for k in rest} == {k: theirs[k] for k in rest}
    if "instances" not in ours:
        return
    ours, theirs = ours["instances"], theirs["instances"]
    assert ours.image_size == theirs.image_size
    assert torch.equal(ours.gt_classes, theirs.gt_classes)
    assert torch.equal(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
    assert ours.has("gt_masks") == theirs.has("gt_masks")


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # fvcore's flip
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("recompute_boxes", [True, False])
@pytest.mark.parametrize("name", CHAINS)
def test_exact_samples_are_detectron2s(tmp_path, name, recompute_boxes, image_format):
    record = _record(tmp_path)
    before = copy.deepcopy(record)
    arguments = {
        "augmentations": CHAINS[name],
        "image_format": image_format,
        "use_instance_mask": recompute_boxes,
        "recompute_boxes": recompute_boxes,
    }
    ours = DatasetMapper(True, **arguments)
    theirs = detectron2_data.DatasetMapper(True, **arguments)
    for seed in range(8):
        sample, draw = _sample(ours, record, seed)
        expected, expected_draw = _sample(theirs, record, seed)
        _assert_equal(sample, expected)
        assert draw == expected_draw
    assert record == before
    sample["not_exhaustive_category_ids"].append(1)
    assert record == before


def test_fast_samples_differ_in_grey_values_only(tmp_path):
    record = _record(tmp_path)
    arguments = {
        "augmentations": LSJ,
        "image_format": "RGB",
        "use_instance_mask": True,
        "recompute_boxes": True,
    }
    exact = DatasetMapper(True, **arguments)
    fast = DatasetMapper(True, **arguments, exact=False)
    differing = 0
    for seed in range(8):
        ours, theirs = (_sample(mapper, record, seed)[0] for mapper in (fast, exact))
        difference = (ours["image"].int() - theirs["image"].int()).abs()
        assert difference.max() <= 1
        differing += int(difference.sum())
        _assert_equal({**ours, "image": theirs["image"]}, theirs)
    assert differing > 0  # it is another way of resizing


def test_images_are_of_their_own_memory(tmp_path):
    record = _record(tmp_path)
    for exact in (True, False):
        mapper = DatasetMapper(True, augmentations=LSJ, image_format="RGB", exact=exact)
        for seed in range(4):
            image = _sample(mapper, record, seed)[0]["image"]
            assert image.untyped_storage().nbytes() == image.numel()
            image += 1  # writable


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", ["grey", "turned", "labels"])
def test_other_kinds_of_images_go_detectron2s_way(tmp_path, kind, exact):
    record = {**_record(tmp_path), "annotations": []}
    if kind == "grey":
        Image.open(record["file_name"]).convert("L").save(record["file_name"])
    elif kind == "turned":
        save_image(tmp_path / "a.jpg", 71, 53, orientation=6)
    else:
        Image.fromarray(pixels(53, 71)[:, :, 0]).save(tmp_path / "labels.png")
        record["sem_seg_file_name"] = str(tmp_path / "labels.png")
    arguments = {"augmentations": CHAINS["one_scale"], "image_format": "RGB"}
    ours = DatasetMapper(False, **arguments, exact=exact)
    theirs = detectron2_data.DatasetMapper(False, **arguments)
    sample, expected = (_sample(mapper, record, 1)[0] for mapper in (ours, theirs))
    assert torch.equal(sample["image"], expected["image"])
    assert sample.keys() == expected.keys()


def test_someone_elses_annotations_are_theirs_to_change(tmp_path):
    class Mine(DatasetMapper):
        def _transform_annotations(self, dataset_dict, transforms, image_shape):
            dataset_dict["seen"] = [a.pop("segmentation") for a in dataset_dict.pop("annotations")]

    record = _record(tmp_path)
    before = copy.deepcopy(record)
    sample = Mine(True, augmentations=LSJ, image_format="RGB", use_instance_mask=True)(record)
    assert len(sample["seen"]) == 4
    assert record == before


def test_wrong_size_is_refused_before_decoding(tmp_path):
    record = {**_record(tmp_path), "height": 50}
    with pytest.raises(ValueError, match=r"71.*53.*71.*50"):
        _mapper()(record)

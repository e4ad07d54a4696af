# SPDX-License-Identifier: Apache-2.0
"""Our mapper on images without objects and on files that are none."""

from __future__ import annotations

import pytest
import torch
from detectron2 import data as detectron2_data
from detectron2.data import transforms as T

from tests.runtime.bundled.data.images import box_annotation, make_records
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

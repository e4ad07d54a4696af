# SPDX-License-Identifier: Apache-2.0
"""Every tensor of a batch is changed, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from vitdet_d2.data.batch_tensors import PackedPolygonMasks, change_tensors, pack_polygons
from vitdet_d2.geometry.packed_polygons import PackedPolygons
from vitdet_d2.heads.sampled_masks import polygons_of_batch

SQUARE = np.array([1.0, 1, 5, 1, 5, 5, 1, 5])


def _batch():
    instances = Instances(
        (8, 9),
        gt_boxes=Boxes(torch.tensor([[1.0, 1, 5, 5], [0, 0, 2, 2]])),
        gt_classes=torch.tensor([3, 4]),
        gt_masks=PolygonMasks([[SQUARE], [SQUARE / 2, SQUARE + 2]]),
    )
    bits = Instances((8, 9), gt_masks=BitMasks(torch.ones(2, 8, 9, dtype=torch.bool)))
    image = torch.arange(216, dtype=torch.uint8).reshape(3, 8, 9)
    return [
        {"image": image, "file_name": "a", "instances": instances},
        {"image": image + 1, "ids": [1, 2], "instances": bits},
    ]


def _tensors(batch):
    found = []
    change_tensors(batch, lambda t: found.append(t) or t)
    return found


def test_every_tensor_goes_to_another_device():
    batch = pack_polygons(_batch())
    moved = change_tensors(batch, lambda t: t.to("meta"))
    assert {t.device.type for t in _tensors(moved)} == {"meta"}
    assert {t.device.type for t in _tensors(batch)} == {"cpu"}
    first = moved[0]["instances"]
    assert first.gt_boxes.device.type == first.gt_masks.packed.device.type == "meta"
    assert moved[1]["instances"].gt_masks.device.type == "meta"
    assert first.image_size == (8, 9)
    assert list(first.get_fields()) == ["gt_boxes", "gt_classes", "gt_masks"]
    assert moved[0]["file_name"] == "a"
    assert moved[1]["ids"] == [1, 2]


def test_values_and_types_stay():
    batch = _batch()
    copied = change_tensors(batch, torch.clone)
    for one, other in zip(_tensors(batch), _tensors(copied), strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
        assert one.data_ptr() != other.data_ptr()
    assert type(copied[0]["instances"].gt_masks) is PolygonMasks


def test_packed_polygons_are_the_polygons():
    batch = pack_polygons(_batch())
    masks = batch[0]["instances"].gt_masks
    assert isinstance(masks, PackedPolygonMasks)
    expected = PackedPolygons.pack(_batch()[0]["instances"].gt_masks.polygons)
    assert torch.equal(masks.packed.points, expected.points)
    assert masks.packed.num_polygons.tolist() == [1, 2]
    assert pack_polygons(batch)[0]["instances"].gt_masks is masks  # not twice


def test_heads_take_the_packed_polygons():
    instances = pack_polygons(_batch())[0]["instances"]
    polygons, starts = polygons_of_batch([instances.to(torch.device("cpu"))], torch.device("cpu"))
    assert polygons.points.data_ptr() == instances.gt_masks.packed.points.data_ptr()
    assert starts == [0]


@pytest.mark.parametrize("item", [torch.tensor([1]), [1], slice(1, 2), 1])
def test_a_selection_is_plain(item):
    masks = pack_polygons(_batch())[0]["instances"].gt_masks
    selected = masks[item]
    assert type(selected) is PolygonMasks
    np.testing.assert_array_equal(selected.polygons[0][1], SQUARE + 2)


def test_polygons_of_images_can_be_joined():
    instances = pack_polygons(_batch())[0]["instances"]
    joined = Instances.cat([instances, instances]).gt_masks
    assert len(joined) == 4
    np.testing.assert_array_equal(joined.polygons[3][1], SQUARE + 2)
    assert getattr(joined, "packed", None) is None
    assert len(change_tensors(joined, torch.clone)) == 4


def test_other_values_stay_as_they_are():
    value = {"a": None, "b": {1, 2}, "c": (1.5, "x"), "d": ValueError("no")}
    assert change_tensors(value, torch.clone) == value
    assert pack_polygons(value) == value

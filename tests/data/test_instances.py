# SPDX-License-Identifier: Apache-2.0
"""Instances built together, against Detectron2's functions object by object."""

from __future__ import annotations

import copy

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import detection_utils as utils
from detectron2.structures import BoxMode
from fvcore.transforms.transform import HFlipTransform, TransformList

from vitdet_d2.data.instances import InstanceOptions, build_instances
from vitdet_d2.geometry.crop_transform import CropTransform

SIZE = (48, 40)
CHAIN = TransformList(
    [HFlipTransform(90), T.ResizeTransform(70, 90, 77, 99), CropTransform(20, 10, 40, 48)]
)


def _annotations(seed, mode=BoxMode.XYWH_ABS, count=15):
    """Triangles and pentagons with boxes, some outside of the crop."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        x, y = rng.uniform(0, 80, 2)
        w, h = rng.uniform(0.5, 40, 2)
        second = [x + w, y + h, x + w / 2, y, x + w, y, x + 2 * w, y + h / 3, x, y + h]
        polygons = [[x, y, x + w, y, x + w / 3, y + h], second]
        corners = [x, y, w, h] if mode == BoxMode.XYWH_ABS else [x, y, x + w, y + h]
        result.append(
            {
                "bbox": [float(v) for v in corners],
                "bbox_mode": mode,
                "category_id": int(rng.integers(5)),
                "segmentation": [list(map(float, p)) for p in polygons[: rng.integers(1, 3)]],
            }
        )
    return result


def _reference(annotations, transforms, options):
    """What Detectron2's mapper does."""
    kept = []
    for annotation in copy.deepcopy(annotations):
        if not options.masks:
            annotation.pop("segmentation", None)
        kept.append(utils.transform_instance_annotations(annotation, transforms, SIZE))
    instances = utils.annotations_to_instances(kept, SIZE, mask_format=options.mask_format)
    if options.recompute_boxes:
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return utils.filter_empty_instances(instances)


@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, BoxMode.XYXY_ABS])
@pytest.mark.parametrize(
    ("masks", "mask_format", "recompute_boxes"),
    [
        (True, "polygon", True),
        (True, "polygon", False),
        (True, "bitmask", True),
        (True, "bitmask", False),
        (False, "polygon", False),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_object_by_object(seed, masks, mask_format, recompute_boxes, mode):
    annotations = _annotations(seed, mode)
    before = copy.deepcopy(annotations)
    options = InstanceOptions(masks=masks, mask_format=mask_format, recompute_boxes=recompute_boxes)
    ours = build_instances(annotations, CHAIN, SIZE, options)
    theirs = _reference(annotations, CHAIN, options)
    assert annotations == before
    assert 0 < len(theirs) < len(annotations)
    assert list(ours.get_fields()) == list(theirs.get_fields())
    assert ours.image_size == theirs.image_size
    assert torch.equal(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
    assert torch.equal(ours.gt_classes, theirs.gt_classes)
    assert ours.gt_boxes.tensor.dtype == theirs.gt_boxes.tensor.dtype
    if masks and mask_format == "bitmask":
        assert torch.equal(ours.gt_masks.tensor, theirs.gt_masks.tensor)
    elif masks:
        for a, b in zip(ours.gt_masks.polygons, theirs.gt_masks.polygons, strict=True):
            assert len(a) == len(b)
            for p, q in zip(a, b, strict=True):
                np.testing.assert_array_equal(p, q)


MASKS = InstanceOptions(masks=True, mask_format="polygon", recompute_boxes=True)
BOXES = InstanceOptions(masks=False, mask_format="polygon", recompute_boxes=False)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"segmentation": {"size": [70, 90], "counts": b""}}, MASKS),
        ({"segmentation": None}, MASKS),
        ({"segmentation": [[0.0, 0, 1, 1]]}, MASKS),
        ({"bbox_mode": BoxMode.XYXY_ABS}, BOXES),
    ],
)
def test_other_kinds_are_left_to_detectron2(change, options):
    annotations = _annotations(0)
    assert build_instances(annotations, CHAIN, SIZE, options) is not None
    annotations[3].update(change)
    assert build_instances(annotations, CHAIN, SIZE, options) is None


@pytest.mark.parametrize("options", [MASKS, BOXES])
def test_nothing_left(options):
    annotations = _annotations(0, count=1)
    annotations[0].update(bbox=[0.0, 60.0, 3, 3], segmentation=[[0.0, 60, 3, 60, 3, 63]])
    instances = build_instances(annotations, CHAIN, SIZE, options)
    assert len(instances) == 0
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.has("gt_masks") == options.masks

# SPDX-License-Identifier: Apache-2.0
"""Polygons transformed together, against one after the other."""

from __future__ import annotations

import detectron2.data.transforms as T
import numpy as np
import pytest
from detectron2.structures import PolygonMasks
from fvcore.transforms.transform import HFlipTransform, Transform

from vitdet_d2.data.polygon_arrays import bounding_boxes, pack, transform_polygons
from vitdet_d2.geometry.crop_transform import CropTransform

CHAIN = [HFlipTransform(100), T.ResizeTransform(80, 100, 120, 150), CropTransform(30, 20, 64, 64)]


def _instances(rng, count=12):
    """Stars, slivers and flat polygons, some outside of the window."""
    instances = []
    for _ in range(count):
        polygons = []
        for _ in range(int(rng.integers(1, 4))):
            corners = int(rng.integers(3, 12))
            angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
            radii = rng.uniform(1, 30, corners)
            centre = rng.uniform(0, 100, 2)
            star = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
            if rng.random() < 0.2:
                star[:, 1] = 2 * star[:, 0] + 1  # on a line
            polygons.append(star.reshape(-1).tolist())
        instances.append(polygons)
    return instances


def _one_after_the_other(polygons, transforms):
    arrays = [np.array(polygon).reshape(-1, 2) for polygon in polygons]
    for transform in transforms:
        arrays = transform.apply_polygons(arrays)
    return [array.reshape(-1) for array in arrays]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("chain", [CHAIN, CHAIN[:2], CHAIN[2:], CHAIN[::-1]], ids=len)
def test_transformed_polygons_and_their_boxes(seed, chain):
    instances = _instances(np.random.default_rng(seed))
    packed = pack(instances)
    before = packed.points.copy()
    result = transform_polygons(packed, chain)
    np.testing.assert_array_equal(packed.points, before)
    expected = [_one_after_the_other(polygons, chain) for polygons in instances]
    found = [[] for _ in instances]
    for polygon, owner in zip(result.split(), result.owners, strict=True):
        found[owner].append(polygon.reshape(-1))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    boxes = PolygonMasks(expected).get_bounding_boxes().tensor.numpy()
    np.testing.assert_array_equal(bounding_boxes(result, len(instances)), boxes)


class _Doubling(Transform):
    """Adds a mirrored copy to every polygon."""

    def apply_image(self, img):
        return img

    def apply_coords(self, coords):
        return coords

    def apply_polygons(self, polygons):
        return [p for polygon in polygons for p in (polygon, -polygon)]


def test_transform_with_polygons_of_its_own():
    packed = pack([[[0.0, 0, 4, 0, 0, 4]], [], [[1, 1, 2, 1, 2, 2, 1, 2], [5, 5, 6, 5, 6, 6]]])
    result = transform_polygons(packed, [_Doubling()])
    assert result.owners.tolist() == [0, 0, 2, 2, 2, 2]
    assert result.counts.tolist() == [3, 3, 4, 4, 3, 3]
    np.testing.assert_array_equal(result.split()[1], -result.split()[0])


def test_nothing_left_and_nothing_there():
    for instances in ([], [[]], [[[200.0, 200, 210, 200, 200, 210]]]):
        result = transform_polygons(pack(instances), CHAIN[2:])
        assert result.split() == []
        boxes = bounding_boxes(result, len(instances))
        assert boxes.tolist() == [[np.inf, np.inf, 0, 0]] * len(instances)


@pytest.mark.parametrize("polygon", [[0.0, 0, 1, 1], [0.0, 0, 1, 1, 2, 2, 3]])
def test_wrong_polygons_are_refused(polygon):
    assert pack([[polygon]]) is None
    assert pack([[[0.0, 0, 1, 0, 1, 1]], [polygon]]) is None


def test_whole_numbers_and_arrays():
    (triangle,) = pack([[[0, 0, 3, 0, 0, 3]]]).split()
    assert triangle.dtype == np.float64
    (same,) = pack([[np.array([0, 0, 3, 0, 0, 3])]]).split()
    np.testing.assert_array_equal(triangle, same)

# SPDX-License-Identifier: Apache-2.0
"""Masks of boxes from packed polygons: every pixel against pycocotools."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitdet_d2.geometry.rasterize import PackedPolygons, PairCounts, rasterize_in_boxes

SQUARE = np.array([10.0, 10, 30, 10, 30, 30, 10, 30])


def rasterized_by_pycocotools(polygons, box, side):
    """One box at a time, in the arithmetic of Detectron2's `rasterize_polygons_within_box`."""
    if not polygons:
        return np.zeros((side, side), dtype=bool)
    ratio = [side / max(box[2 + axis] - box[axis], 0.1) for axis in (0, 1)]
    scaled = []
    for polygon in polygons:
        points = polygon.reshape(-1, 2).copy()
        for axis in (0, 1):
            points[:, axis] = (points[:, axis] - box[axis]) * ratio[axis]
        scaled.append(points.reshape(-1))
    encoded = mask_util.merge(mask_util.frPyObjects(scaled, side, side))
    return mask_util.decode(encoded).astype(bool)


def random_instances(generator, kind):
    """Polygons that cross themselves at will; see `KINDS`."""
    instances = []
    for _ in range(6):
        polygons = []
        for _ in range(generator.integers(1, 4)):
            points = generator.normal(50, 60, (generator.integers(3, 30), 2))
            if kind == "huge":
                points = generator.normal(0, 1500, points.shape)
            elif kind == "negative":
                points -= 80
            elif kind == "half pixels":
                points = np.round(points * 2) / 2
            elif kind == "repeated points":
                points = np.repeat(np.round(points / 20) * 20, 2, axis=0)
            elif kind == "flat":
                points[:, generator.integers(0, 2)] = 40.0
            elif kind == "slow edges":
                points[:, generator.integers(0, 2)] *= 0.01
            polygons.append(points.reshape(-1))
        instances.append(polygons)
    instances.append([])
    return instances


def random_boxes(generator, kind, count):
    corner = generator.normal(30, 40, (count, 2))
    size = generator.exponential(60, (count, 2)) + 1
    if kind == "half pixels":
        corner, size = np.round(corner), np.round(size) + 1
    elif kind != "huge":  # in which pycocotools would walk for gigabytes
        size[generator.random(size.shape) < 0.03] = 0.05
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


KINDS = [
    "plain",
    "huge",
    "negative",
    "half pixels",
    "repeated points",
    "flat",
    "slow edges",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_is_that_of_pycocotools(kind):
    for side in (1, 7, 28, 56):
        generator = np.random.default_rng(KINDS.index(kind) * 100 + side)
        instances = random_instances(generator, kind)
        index = generator.integers(0, len(instances), 50)
        boxes = random_boxes(generator, kind, len(index))
        packed = PackedPolygons.pack(instances)
        masks = rasterize_in_boxes(packed, torch.from_numpy(index), torch.from_numpy(boxes), side)
        expected = [
            rasterized_by_pycocotools(instances[i], box, side)
            for i, box in zip(index, boxes, strict=True)
        ]
        assert masks.shape == (50, side, side)
        assert bool(masks.any()) == (kind != "flat") or side == 1
        np.testing.assert_array_equal(masks.numpy(), np.stack(expected))


coordinates = st.one_of(
    st.integers(-60, 90).map(lambda v: v / 5),  # on the fine grid of a box of unit cells
    st.integers(-60, 90).map(lambda v: v / 5 - 0.1),  # half way between two of its lines
    st.floats(-40, 60, width=32),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    polygons=st.lists(
        st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8),
        min_size=1,
        max_size=2,
    ),
    sides=st.tuples(st.floats(0, 40, width=32), st.floats(0, 40, width=32)) | st.just((7.0, 7.0)),
)
def test_any_polygons_in_any_box(polygons, sides):
    flat = [np.array(polygon, dtype=np.float64).reshape(-1) for polygon in polygons]
    box = np.array([0, 0, *sides], dtype=np.float32)
    packed = PackedPolygons.pack([flat])
    mask = rasterize_in_boxes(packed, torch.tensor([0]), torch.from_numpy(box)[None], 7)[0]
    np.testing.assert_array_equal(mask.numpy(), rasterized_by_pycocotools(flat, box, 7))


def test_a_drawn_square():
    # Six cells per side over 60 pixels: cells 1 and 2 lie inside 10 to 30.
    masks = rasterize_in_boxes(
        PackedPolygons.pack([[SQUARE]]), torch.tensor([0]), torch.tensor([[0.0, 0, 60, 60]]), 6
    )
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[1:3, 1:3] = True
    assert torch.equal(masks[0], expected)


def test_polygons_of_an_instance_are_joined_not_subtracted():
    both = rasterize_in_boxes(
        PackedPolygons.pack([[SQUARE, SQUARE + 5]]),
        torch.tensor([0]),
        torch.tensor([[0.0, 0, 40, 40]]),
        40,
    )
    # Two squares of 20 by 20 that share 15 by 15.
    assert both.sum() == 400 + 400 - 225


def test_exact_and_larger_counts_of_pairs_change_nothing():
    generator = np.random.default_rng(3)
    instances = random_instances(generator, "plain")
    packed = PackedPolygons.pack(instances)
    index = torch.from_numpy(generator.integers(0, len(instances), 40))
    boxes = torch.from_numpy(random_boxes(generator, "plain", 40))
    expected = rasterize_in_boxes(packed, index, boxes, 14)
    exact = PairCounts(
        edges=int(packed.num_points[index].sum()), polygons=int(packed.num_polygons[index].sum())
    )
    most = PairCounts.most(packed, 40)
    assert exact.edges < most.edges
    assert exact.polygons < most.polygons
    for counts in (exact, PairCounts(edges=exact.edges + 1, polygons=exact.polygons + 5)):
        masks = rasterize_in_boxes(packed, index, boxes, 14, counts=counts)
        assert torch.equal(masks, expected)


def test_boxes_that_are_no_numbers_get_empty_masks():
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor(
        [[nan, 0, 40, 40], [0, 0, nan, 40], [0, 0, inf, 40], [-inf, 0, 40, 40], [0, 0, 40, 40]]
    )
    masks = rasterize_in_boxes(PackedPolygons.pack([[SQUARE]]), torch.zeros(5).long(), boxes, 8)
    assert masks.flatten(1).any(dim=1).tolist() == [False] * 4 + [True]


def test_nothing_to_do():
    packed = PackedPolygons.pack([[SQUARE]])
    none = rasterize_in_boxes(packed, torch.zeros(0).long(), torch.zeros(0, 4), 28)
    assert none.shape == (0, 28, 28)
    without_polygons = rasterize_in_boxes(
        PackedPolygons.pack([[], []]), torch.tensor([1]), torch.tensor([[0.0, 0, 9, 9]]), 5
    )
    assert without_polygons.shape == (1, 5, 5)
    assert not without_polygons.any()


def test_joined_images_give_the_masks_of_each():
    generator = np.random.default_rng(5)
    images = [random_instances(generator, "plain"), [], random_instances(generator, "negative")]
    parts = [PackedPolygons.pack(instances) for instances in images]
    joined = PackedPolygons.cat(parts)
    assert len(joined) == sum(map(len, images))
    index = torch.arange(len(joined))
    boxes = torch.from_numpy(random_boxes(generator, "plain", len(joined)))
    masks = rasterize_in_boxes(joined, index, boxes, 28)
    start = 0
    for part in parts:
        stop = start + len(part)
        own = rasterize_in_boxes(part, torch.arange(len(part)), boxes[start:stop], 28)
        assert torch.equal(own, masks[start:stop])
        start = stop


def test_packed_polygons_move_as_one():
    packed = PackedPolygons.pack([[SQUARE]]).to("meta", non_blocking=True)
    assert packed.device.type == packed.next_point.device.type == "meta"
    assert (len(packed), packed.max_points, packed.max_polygons) == (1, 4, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_coordinates_beyond_all_images_are_refused(value):
    with pytest.raises(ValueError, match="finite coordinates below 1e\\+08"):
        PackedPolygons.pack([[SQUARE], [np.array([0, 0, 1, 0, 1, value])]])

# SPDX-License-Identifier: Apache-2.0
"""Masks as bitmaps, polygons and crops: goldens, a loop-written reference, edges."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks, ROIMasks, polygons_to_bitmask
from detectron2.structures.masks import polygon_area, rasterize_polygons_within_box
from torchvision.ops import roi_align

# One polygon, two polygons, one polygon seen through a box without width, no polygon.
POLYGONS = [
    [np.array([10.0, 12, 60, 5, 90, 50, 40, 88, 8, 44])],
    [
        np.array([0.0, 0, 20, 0, 20, 20, 0, 20]),
        np.array([30.5, 10, 55, 12.25, 41, 39]),
    ],
    [np.array([5.0, 5, 95, 7, 50, 90])],
    [],
]
BOXES = torch.tensor(
    [[8.0, 5, 90, 88], [3, 2, 50.5, 41], [40, 40, 40, 70], [1, 2, 3, 4]], dtype=torch.float32
)
# Bits of the 14 x 14 targets, measured on detectron2 02b5c4e with PolygonMasks.crop_and_resize.
TARGETS = [
    "0783ff0ffe3ff8fff3ffefff9fff7ff8ff81fc03e00e001000",
    "f803e00f803e3ff87fe1f007c00f003800e003000400000000",
    "fffffffffffffffffffffffffffffffffffffffffffffffff0",
    "00000000000000000000000000000000000000000000000000",
]


def random_polygons(seed: int, count: int) -> list[list[np.ndarray]]:
    rng = np.random.RandomState(seed)
    instances = []
    for _ in range(count):
        instance = []
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            angle = np.sort(rng.rand(rng.randint(3, 20))) * 2 * np.pi
            radius = rng.rand(len(angle)) * 60 + 5
            points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
            instance.append((points + rng.rand(2) * 200 - 20).reshape(-1))
        instances.append(instance)
    return instances


def crop_one_by_one(
    instances: list[list[np.ndarray]], boxes: torch.Tensor, size: int
) -> torch.Tensor:
    """The definition, one polygon at a time: shift, scale, rasterise, unite."""
    masks = torch.zeros(len(instances), size, size, dtype=torch.bool)
    for mask, polygons, box in zip(masks, instances, boxes.numpy(), strict=True):
        width, height = box[2] - box[0], box[3] - box[1]
        ratio_x = size / 0.1 if width < np.float32(0.1) else np.float32(size) / width
        ratio_y = size / 0.1 if height < np.float32(0.1) else np.float32(size) / height
        for polygon in polygons:
            moved = polygon.copy()
            moved[0::2] = (moved[0::2] - box[0]) * ratio_x
            moved[1::2] = (moved[1::2] - box[1]) * ratio_y
            code = mask_util.frPyObjects([moved], size, size)
            mask |= torch.from_numpy(mask_util.decode(code)[:, :, 0]).bool()
    return masks


def test_polygon_targets_match_detectron2() -> None:
    targets = PolygonMasks(POLYGONS).crop_and_resize(BOXES, 14)
    assert targets.dtype == torch.bool
    assert [np.packbits(target.numpy()).tobytes().hex() for target in targets] == TARGETS
    single = rasterize_polygons_within_box(POLYGONS[1], BOXES[1].numpy(), 14)
    assert torch.equal(single, targets[1])


@pytest.mark.parametrize("size", [14, 28, 7])
def test_polygon_targets_match_a_loop(size: int) -> None:
    instances = random_polygons(size, 80)
    boxes = torch.rand(80, 4) * 100
    boxes[:, 2:] += boxes[:, :2] + 1
    boxes[:4] = torch.tensor([[0.0, 0, 0, 0], [9, 9, 4, 4], [1, 1, 1.1, 1.05], [0, 0, 1e4, 1e4]])
    targets = PolygonMasks(instances).crop_and_resize(boxes, size)
    assert torch.equal(targets, crop_one_by_one(instances, boxes, size))
    assert targets.any()


def test_no_instance_has_no_target() -> None:
    assert PolygonMasks([]).crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert not PolygonMasks([[], []]).crop_and_resize(BOXES[:2], 28).any()


def test_targets_leave_the_polygons_alone() -> None:
    masks = PolygonMasks(POLYGONS)
    before = [[polygon.copy() for polygon in instance] for instance in masks]
    masks.crop_and_resize(BOXES, 14)
    for instance, old in zip(masks, before, strict=True):
        for polygon, old_polygon in zip(instance, old, strict=True):
            assert (polygon == old_polygon).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e12])
def test_coordinates_that_crash_pycocotools_are_refused(bad: float) -> None:
    masks = PolygonMasks([[[0, 0, bad, 0, 5, 5]]])
    with pytest.raises(ValueError, match="finite coordinates"):
        masks.crop_and_resize(BOXES[:1], 14)
    with pytest.raises(ValueError, match="finite coordinates"):
        polygons_to_bitmask(masks.polygons[0], 10, 10)


def test_polygon_boxes_areas_and_emptiness() -> None:
    masks = PolygonMasks(POLYGONS)
    infinite = float("inf")
    # Measured on detectron2 02b5c4e.
    assert masks.get_bounding_boxes().tensor.tolist() == [
        [8, 5, 90, 88],
        [0, 0, 55, 39],
        [5, 5, 95, 90],
        [infinite, infinite, 0, 0],
    ]
    assert masks.area().tolist() == [4256.0, 743.4375, 3780.0, 0.0]
    assert masks.nonempty().tolist() == [True, True, True, False]
    assert polygon_area(np.array([0.0, 4, 4, 0]), np.array([0.0, 0, 3, 3])) == 12


def test_polygon_selection() -> None:
    masks = PolygonMasks(POLYGONS)
    flags = torch.tensor([False, True, False, True])
    for item, expected in [
        (1, [1]),
        (slice(1, 3), [1, 2]),
        ([3, 0], [3, 0]),
        (flags, [1, 3]),
        (torch.tensor([2, 2, 0]), [2, 2, 0]),
        (torch.zeros(0, dtype=torch.int64), []),
    ]:
        selected = masks[item]
        assert len(selected) == len(expected)
        for polygons, index in zip(selected, expected, strict=True):
            assert len(polygons) == len(POLYGONS[index])
            for polygon, original in zip(polygons, POLYGONS[index], strict=True):
                assert (polygon == original).all()
    assert len(PolygonMasks.cat([masks, masks[:1]])) == 5
    with pytest.raises(ValueError, match="float32"):
        masks[torch.tensor([0.5])]


def test_polygon_selection_copies_nothing() -> None:
    masks = PolygonMasks(POLYGONS)
    selected = masks[torch.zeros(500, dtype=torch.int64)]
    assert all(polygons is masks.polygons[0] for polygons in selected)
    assert masks[np.array([True, False, False, False])].polygons[0] is masks.polygons[0]
    with pytest.raises(ValueError, match="4 flags"):
        masks[torch.tensor([True])]


def test_polygons_are_checked_and_copied() -> None:
    mine = np.arange(6.0)
    assert PolygonMasks([[mine]]).polygons[0][0] is not mine
    assert PolygonMasks([[torch.arange(6)]]).polygons[0][0].dtype == np.float64
    with pytest.raises(TypeError, match="expected a list, got ndarray"):
        PolygonMasks(np.zeros((1, 6)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list of polygons"):
        PolygonMasks([np.zeros(6)])  # type: ignore[list-item]
    for polygon in ([0, 0, 1, 1], [0, 0, 1, 1, 2]):
        with pytest.raises(ValueError, match="polygon"):
            PolygonMasks([[polygon]])


def test_bitmasks_from_polygons() -> None:
    masks = BitMasks.from_polygon_masks(PolygonMasks(POLYGONS), 100, 110)
    assert masks.tensor.shape == (4, 100, 110)
    for mask, polygons in zip(masks, POLYGONS, strict=True):
        expected = np.zeros((100, 110), dtype=bool)
        for polygon in polygons:
            expected |= mask_util.decode(mask_util.frPyObjects([polygon], 100, 110))[..., 0] > 0
        assert (mask.numpy() == expected).all()
    assert masks.nonempty().tolist() == [True, True, True, False]
    assert BitMasks.from_polygon_masks([], 3, 4).tensor.shape == (0, 3, 4)
    assert not polygons_to_bitmask([], 3, 4).any()


def test_bitmask_boxes_are_tight() -> None:
    tensor = torch.zeros(3, 6, 8)
    tensor[0, 2:4, 1:7] = 1
    tensor[1, 5, 7] = 1
    boxes = BitMasks(tensor).get_bounding_boxes()
    assert boxes.tensor.tolist() == [[1, 2, 7, 4], [7, 5, 8, 6], [0, 0, 0, 0]]


def test_bitmask_targets_match_sampling() -> None:
    masks = torch.rand(5, 30, 40) > 0.4
    boxes = torch.tensor(
        [[0.0, 0, 40, 30], [3, 4, 20, 9], [7, 7, 7, 7], [-5, 2, 60, 21], [1, 1, 2, 2]]
    )
    targets = BitMasks(masks).crop_and_resize(boxes, 7)
    for target, mask, box in zip(targets, masks, boxes, strict=True):
        crop = roi_align(mask[None, None].float(), [box[None]], 7, aligned=True)
        assert torch.equal(target, crop[0, 0] >= 0.5)


def test_bitmask_selection() -> None:
    masks = BitMasks(np.eye(3)[:, None])
    assert masks.image_size == (1, 3)
    assert masks[1].tensor.shape == (1, 1, 3)
    assert masks[torch.tensor([True, False, True])].tensor.nonzero()[:, 2].tolist() == [0, 2]
    assert len(BitMasks.cat([masks, masks])) == 6
    assert masks.to("cpu").device == torch.device("cpu")
    with pytest.raises(ValueError, match=r"\(N, H, W\), got \(4,\)"):
        BitMasks(torch.zeros(4))


def test_roi_masks_are_pasted() -> None:
    masks = ROIMasks(torch.ones(2, 4, 4))
    boxes = Boxes([[0, 0, 3, 2], [2, 1, 5, 5]])
    pasted = masks.to_bitmasks(boxes, 5, 6).tensor
    assert torch.equal(BitMasks.from_roi_masks(masks, boxes, 5, 6).tensor, pasted)
    expected = torch.zeros(2, 5, 6, dtype=torch.bool)
    expected[0, :2, :3] = True
    expected[1, 1:, 2:5] = True
    assert torch.equal(pasted, expected)
    assert len(masks[1:]) == 1
    with pytest.raises(ValueError, match=r"3|M"):
        ROIMasks(torch.zeros(1, 2, 4, 4))


def test_pasting_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from detectron2.structures import masks as module

    calls = []

    def out_of_memory_once(*args: object) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return torch.ones(1, 2, 2, dtype=torch.bool)

    monkeypatch.setattr(module, "paste_masks_in_image", out_of_memory_once)
    assert ROIMasks(torch.ones(1, 4, 4)).to_bitmasks(Boxes([[0, 0, 1, 1]]), 2, 2).tensor.all()
    assert len(calls) == 2


def test_counts_must_agree() -> None:
    with pytest.raises(ValueError, match=r"one per mask \(4\), got 2"):
        PolygonMasks(POLYGONS).crop_and_resize(BOXES[:2], 14)
    with pytest.raises(ValueError, match=r"one per mask \(1\), got 2"):
        BitMasks(torch.ones(1, 4, 4)).crop_and_resize(BOXES[:2], 14)

# SPDX-License-Identifier: Apache-2.0
"""Boxes: conventions, selection, overlaps by hand and against a loop."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import (
    Boxes,
    BoxMode,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from detectron2.structures.boxes import matched_pairwise_iou, pairwise_intersection

# Two boxes that share a quarter, one apart, one without area, one inverted.
FIRST = [[0.0, 0, 10, 10], [20, 20, 30, 40]]
SECOND = [[5.0, 5, 15, 15], [0, 0, 10, 10], [3, 3, 3, 9], [12, 12, 11, 11]]


def loop_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(area) - width * height)


def test_iou_by_hand() -> None:
    iou = pairwise_iou(Boxes(FIRST), Boxes(SECOND))
    torch.testing.assert_close(
        iou, torch.tensor([[25 / 175, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]), rtol=0, atol=1e-7
    )
    ioa = pairwise_ioa(Boxes(FIRST), Boxes(SECOND))
    assert ioa[0].tolist() == [0.25, 1.0, 0.0, 0.0]
    assert pairwise_intersection(Boxes(FIRST), Boxes(SECOND))[0].tolist() == [25.0, 100.0, 0.0, 0.0]


def test_iou_matches_a_loop() -> None:
    corner = torch.rand(30, 2) * 50
    boxes = Boxes(torch.cat([corner, corner + torch.rand(30, 2) * 40], 1))
    expected = [[loop_iou(a.tolist(), b.tolist()) for b in boxes] for a in boxes]
    torch.testing.assert_close(pairwise_iou(boxes, boxes), torch.tensor(expected))
    torch.testing.assert_close(
        matched_pairwise_iou(boxes, Boxes(boxes.tensor.flip(0))),
        torch.tensor(expected).flip(1).diagonal(),
    )


def test_overlaps_of_no_box() -> None:
    none, some = Boxes(torch.zeros(0, 4)), Boxes(FIRST)
    assert pairwise_iou(none, some).shape == (0, 2)
    assert pairwise_ioa(some, none).shape == (2, 0)


def test_point_distances_are_left_top_right_bottom() -> None:
    distances = pairwise_point_box_distance(torch.tensor([[2.0, 3.0]]), Boxes(FIRST))
    assert distances.tolist() == [[[2.0, 3.0, 8.0, 7.0], [-18.0, -17.0, 28.0, 37.0]]]


def test_geometry() -> None:
    boxes = Boxes(torch.tensor([[-5.0, 2, 30, 8], [1, 1, 1, 9], [4, 4, 2, 2]]))
    assert boxes.area().tolist() == [210.0, 0.0, 4.0]
    assert boxes.nonempty().tolist() == [True, False, False]
    assert boxes.nonempty(threshold=6).tolist() == [False, False, False]
    assert boxes.get_centers()[0].tolist() == [12.5, 5.0]
    assert boxes.inside_box((10, 20)).tolist() == [False, True, True]
    assert boxes.inside_box((10, 20), boundary_threshold=11).tolist() == [True, True, True]
    before = boxes.tensor
    boxes.clip((7, 20))
    assert boxes.tensor.tolist() == [[0, 2, 20, 7], [1, 1, 1, 7], [4, 4, 2, 2]]
    assert before[0, 0] == -5, "clip must not write to a tensor that others may hold"
    boxes.scale(2, 0.5)
    assert boxes.tensor[0].tolist() == [0, 1, 40, 3.5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_clip_refuses_what_is_not_finite(bad: float) -> None:
    boxes = Boxes(torch.tensor([[0.0, 0, bad, 1]]))
    with pytest.raises(ValueError, match="infinite"):
        boxes.clip((5, 5))


def test_construction_and_selection() -> None:
    assert Boxes([]).tensor.shape == (0, 4)
    assert Boxes(np.zeros((2, 4), dtype=np.float64)).tensor.dtype == torch.float32
    boxes = Boxes(torch.arange(12).reshape(3, 4))
    assert boxes[1].tensor.tolist() == [[4, 5, 6, 7]]
    assert len(boxes[-2:]) == 2
    assert boxes[torch.tensor([True, False, True])].tensor[:, 0].tolist() == [0, 8]
    assert boxes[torch.tensor([2, 2])].tensor[:, 0].tolist() == [8, 8]
    assert [row.tolist() for row in boxes][2] == [8, 9, 10, 11]
    assert len(Boxes.cat([])) == 0
    joined = Boxes.cat([boxes])
    joined.tensor[0, 0] = 99
    assert boxes.tensor[0, 0] == 0
    restored = pickle.loads(pickle.dumps(boxes))
    assert torch.equal(restored.tensor, copy.deepcopy(boxes).tensor)
    assert repr(boxes).startswith("Boxes(tensor(")


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(ValueError, match=r"3, 5"):
        Boxes(torch.zeros(3, 5))
    with pytest.raises(TypeError, match="expected a list of Boxes"):
        Boxes.cat(torch.zeros(1, 4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"number|as many"):
        matched_pairwise_iou(Boxes(FIRST), Boxes(SECOND))


@pytest.mark.parametrize(
    ("source", "target", "box", "expected"),
    [
        (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS, [1.0, 2, 10, 20], [1.0, 2, 11, 22]),
        (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, [1.0, 2, 11, 22], [1.0, 2, 10, 20]),
        (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS, [1.0, 2, 10, 20], [6.0, 12, 10, 20, 0]),
        (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS, [6.0, 12, 10, 20, 90], [-4.0, 7, 16, 17]),
    ],
)
def test_conversions_keep_the_kind(
    source: BoxMode, target: BoxMode, box: list[float], expected: list[float]
) -> None:
    assert BoxMode.convert(box, source, target) == pytest.approx(expected)
    assert isinstance(BoxMode.convert(tuple(box), source, target), tuple)
    array = np.array([box, box])
    converted = BoxMode.convert(array, source, target)
    assert converted.dtype == np.float64
    np.testing.assert_allclose(converted, [expected, expected], atol=1e-12)
    tensor = torch.tensor([box])
    torch.testing.assert_close(BoxMode.convert(tensor, source, target), torch.tensor([expected]))
    assert array[0].tolist() == box, "the input must stay as it is"
    assert tensor[0].tolist() == box, "the input must stay as it is"
    assert BoxMode.convert(box, source, source) is box


def test_conversion_accepts_plain_integers_as_modes() -> None:
    # Data sets in JSON carry the number of the mode.
    assert BoxMode.convert([1, 2, 3, 4], 1, 0) == [1, 2, 4, 6]  # type: ignore[arg-type]


def test_relative_boxes_are_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"not .*supported"):
        BoxMode.convert([0.0, 0, 1, 1], BoxMode.XYXY_REL, BoxMode.XYXY_ABS)


@pytest.mark.parametrize("kind", [list, tuple])
def test_convert_refuses_a_list_of_boxes(kind: Any) -> None:
    box = kind([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(
        ValueError, match=r"expected 4 numbers per XYXY_ABS box, got shape \(1, 4\)"
    ):
        BoxMode.convert([box], BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)

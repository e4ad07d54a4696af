# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import (
    Box2BoxTransform,
    Box2BoxTransformLinear,
    box_regression_loss,
)
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels
from torch import Tensor


def test_anchors_of_a_drawn_2x3_grid() -> None:
    generator = DefaultAnchorGenerator(
        sizes=[[8.0]], aspect_ratios=[[0.25, 1.0]], strides=[16], offset=0.5
    )
    (anchors,) = generator([torch.zeros(1, 1, 2, 3)])
    assert generator.num_anchors == generator.num_cell_anchors == [2]
    assert len(anchors) == 12
    # Area 64 with height / width 1/4 is 16 x 4; the ratio varies before the location.
    assert anchors.tensor[0].tolist() == [0, 6, 16, 10]
    assert anchors.tensor[1].tolist() == [4, 4, 12, 12]
    assert anchors.tensor[2].tolist() == [16, 6, 32, 10]  # x varies before y
    assert anchors.tensor[-1].tolist() == [36, 20, 44, 28]
    assert not generator.state_dict()


def test_one_list_of_sizes_serves_every_stride() -> None:
    generator = DefaultAnchorGenerator(sizes=[32], aspect_ratios=[1], strides=[4, 8], offset=0)
    maps = [torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)]
    assert [len(a) for a in generator(maps)] == [4, 1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"offset": 1.0}, r"offset: expected a value in \[0, 1\), got 1.0"),
        ({"sizes": []}, "sizes: expected a non-empty list"),
        ({"aspect_ratios": [[1], [2], [3]]}, "aspect_ratios: expected 1 list or one for each"),
    ],
)
def test_anchor_generator_names_a_wrong_argument(change: dict, match: str) -> None:
    arguments = {"sizes": [8], "aspect_ratios": [1], "strides": [4, 8], **change}
    with pytest.raises(ValueError, match=match):
        DefaultAnchorGenerator(**arguments)


def _match_slowly(
    quality: list[list[float]], thresholds: list[float], labels: list[int], low: bool
) -> tuple[list[int], list[int]]:
    """The definition, element by element."""
    matches, result = [], []
    for j in range(len(quality[0])):
        column = [row[j] for row in quality]
        best = max(column)
        matches.append(column.index(best))
        label = labels[sum(best >= t for t in thresholds)]
        if low and any(row[j] == max(row) for row in quality):
            label = 1
        result.append(label)
    return matches, result


@pytest.mark.parametrize("low", [False, True])
def test_matcher_equals_its_definition(low: bool) -> None:
    # Multiples of 1/20 hit the thresholds exactly, and make ties.
    quality = (torch.rand(5, 200) * 20).round() / 20
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=low)
    matches, labels = matcher(quality)
    # In float32, as the thresholds are compared.
    thresholds = torch.tensor([0.3, 0.7]).tolist()
    expected = _match_slowly(quality.tolist(), thresholds, [0, -1, 1], low)
    assert labels.dtype == torch.int8
    assert (matches.tolist(), labels.tolist()) == expected


def test_matcher_without_ground_truth_or_predictions() -> None:
    matcher = Matcher([0.5], [0, 1])
    matches, labels = matcher(torch.zeros(0, 3))
    assert matches.tolist() == [0, 0, 0]
    assert labels.tolist() == [0, 0, 0]
    assert matches.dtype == torch.int64
    assert [len(v) for v in matcher(torch.zeros(2, 0))] == [0, 0]


def test_matcher_leaves_its_arguments_alone() -> None:
    thresholds = [0.5]
    Matcher(thresholds, [0, 1])
    assert thresholds == [0.5]


@pytest.mark.parametrize(
    ("thresholds", "labels", "match"),
    [
        ([0.7, 0.3], [0, -1, 1], "thresholds: expected rising"),
        ([0.0], [0, 1], "thresholds: expected rising"),
        ([0.5], [0, -1, 1], "labels: expected 2 values"),
        ([0.5], [0, 2], "labels: expected 2 values, each -1, 0 or 1"),
    ],
)
def test_matcher_names_a_wrong_argument(thresholds: list, labels: list, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Matcher(thresholds, labels)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_matcher_matches_the_same() -> None:
    def match(thresholds: list[float], labels: list[int], quality: Tensor) -> tuple[Tensor, Tensor]:
        return Matcher(thresholds, labels, allow_low_quality_matches=True)(quality)

    scripted = torch.jit.script(match)
    for quality in (torch.rand(3, 40), torch.rand(0, 4)):
        expected = match([0.3, 0.7], [0, -1, 1], quality)
        got = scripted([0.3, 0.7], [0, -1, 1], quality)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
    with pytest.raises(torch.jit.Error, match="expected rising values above 0"):
        scripted([0.7, 0.3], [0, -1, 1], torch.rand(3, 4))


def _boxes(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    corner = torch.rand(count, 2, dtype=dtype) * 100
    return torch.cat([corner, corner + 1 + 50 * torch.rand(count, 2, dtype=dtype)], dim=1)


def test_deltas_of_a_drawn_box() -> None:
    transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    source, target = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 25, 10]])
    deltas = transform.get_deltas(source, target)
    # The centre moves by (10, -5): one width, a quarter of the height; the width doubles.
    expected = [[10.0, -2.5, 5 * math.log(2), 5 * math.log(0.5)]]
    torch.testing.assert_close(deltas, torch.tensor(expected))


def test_deltas_round_trip_for_several_boxes_per_source() -> None:
    transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    source, first, second = _boxes(50), _boxes(50), _boxes(50)
    deltas = torch.cat([transform.get_deltas(source, t) for t in (first, second)], dim=1)
    # Rounding of coordinates near 100 in float32.
    torch.testing.assert_close(
        transform.apply_deltas(deltas, source), torch.cat([first, second], 1), atol=1e-4, rtol=0
    )


def test_distances_of_a_drawn_box() -> None:
    source, target = torch.tensor([[8.0, 8.0, 12.0, 16.0]]), torch.tensor([[9.0, 2.0, 20.0, 22.0]])
    pixels = Box2BoxTransformLinear(normalize_by_size=False)
    assert pixels.get_deltas(source, target).tolist() == [[1.0, 10.0, 10.0, 10.0]]
    sides = Box2BoxTransformLinear()
    assert sides.get_deltas(source, target).tolist() == [[0.25, 1.25, 2.5, 1.25]]


@pytest.mark.parametrize("normalize", [True, False])
def test_distances_round_trip_for_several_boxes_per_source(normalize: bool) -> None:
    transform = Box2BoxTransformLinear(normalize)
    sources, shift = _boxes(5), torch.tensor([-9.0, -8.0, 7.0, 6.0])
    targets = torch.cat([sources + shift, sources + 2 * shift], dim=1)
    deltas = [transform.get_deltas(sources, part) for part in targets.split(4, dim=1)]
    got = transform.apply_deltas(torch.cat(deltas, dim=1), sources)
    torch.testing.assert_close(got, targets, rtol=1e-5, atol=1e-4)  # float32, hundreds of pixels
    # A side on the wrong side of the centre is put onto it.
    assert transform.apply_deltas(-torch.ones(1, 4), sources[:1])[0, 0] == sources[0, ::2].mean()


def test_growth_is_limited_and_half_precision_decodes_in_float32() -> None:
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    box = torch.tensor([[1000.0, 1000, 1016, 1016]])
    grown = transform.apply_deltas(torch.tensor([[0.0, 0, 99, -99]]).half(), box)
    assert grown.dtype == torch.float32
    torch.testing.assert_close(grown, torch.tensor([[508.0, 1008, 1508, 1008]]))
    assert transform.apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)


def test_a_source_without_width_is_an_error() -> None:
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="src_boxes: expected boxes with x0 < x1"):
        transform.get_deltas(torch.tensor([[3.0, 0, 3, 1]]), torch.tensor([[0.0, 0, 1, 1]]))
    with pytest.raises(ValueError, match="weights: expected 4 numbers"):
        Box2BoxTransform(weights=(1.0, 1.0))


@pytest.mark.parametrize("loss_type", ["giou", "diou", "ciou", "smooth_l1"])
def test_box_losses_vanish_on_equal_boxes_and_on_none(loss_type: str) -> None:
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    boxes = _boxes(7)
    deltas = torch.zeros(7, 4, requires_grad=True)
    options = {"box2box_transform": transform, "loss_type": loss_type}
    loss = box_regression_loss(deltas, boxes, boxes, **options)
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-4, rtol=0)
    moved = box_regression_loss(deltas, boxes, boxes + 1, **options)
    assert moved > 7 * 0.01
    empty = box_regression_loss(deltas[:0], boxes[:0], boxes[:0], **options)
    empty.backward()
    assert empty == 0
    assert deltas.grad is not None


def test_smooth_l1_equals_its_definition() -> None:
    transform = Box2BoxTransform(weights=(2.0, 3.0, 4.0, 5.0))
    source, target, deltas = _boxes(9), _boxes(9), torch.randn(9, 4)
    loss = box_regression_loss(
        deltas, source, target, box2box_transform=transform, smooth_l1_beta=0.5
    )
    expected = 0.0
    gaps = (deltas - transform.get_deltas(source, target)).abs()
    for gap in gaps.flatten().tolist():
        expected += gap**2 if gap < 0.5 else gap - 0.25
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_unknown_box_loss() -> None:
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    boxes = _boxes(1)
    with pytest.raises(ValueError, match=r"box_reg_loss_type: expected one of .*got 'l7'"):
        box_regression_loss(boxes, boxes, boxes, box2box_transform=transform, loss_type="l7")


def test_sampling_keeps_to_its_limits() -> None:
    labels = torch.tensor([1] * 30 + [0] * 50 + [-1] * 20)
    positive, negative = subsample_labels(labels, 40, 0.25, bg_label=0)
    assert (len(positive), len(negative)) == (10, 30)
    assert len(set(positive.tolist()) | set(negative.tolist())) == 40
    assert (labels[positive] == 1).all()
    assert (labels[negative] == 0).all()
    # Too few positives: negatives fill up. Too few of both: all of them.
    assert [len(v) for v in subsample_labels(labels, 75, 0.5, 0)] == [30, 45]
    assert [len(v) for v in subsample_labels(labels, 999, 0.5, 0)] == [30, 50]
    assert [len(v) for v in subsample_labels(labels[:0], 9, 0.5, 0)] == [0, 0]


def test_sampling_draws_what_detectron2_draws() -> None:
    # Measured on Detectron2 02b5c4e, torch.manual_seed(3), the same call.
    torch.manual_seed(3)
    labels = torch.tensor([0, 1, 2, 9, 9, 9, -1, 3, 9, 9, 1, 9])
    positive, negative = subsample_labels(labels, 6, 0.5, bg_label=9)
    assert (positive.tolist(), negative.tolist()) == ([1, 0, 7], [9, 4, 5])

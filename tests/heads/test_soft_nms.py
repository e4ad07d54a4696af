# SPDX-License-Identifier: Apache-2.0
"""Soft-NMS against a loop that is written as the paper's figure 2."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import batched_nms

from vitdet_d2.heads import soft_nms


def _iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inner = width * height
    if inner == 0:
        return 0.0
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def _reference(boxes, scores, classes, method, threshold, sigma, min_score):
    """Return ``{index: score}`` of the boxes that stay."""
    kept = {}
    for label in set(classes):
        left = {i: scores[i] for i in range(len(boxes)) if classes[i] == label}
        while left:
            best = max(left, key=lambda i: left[i])
            score = left.pop(best)
            if score <= min_score:
                break
            kept[best] = score
            for i in left:
                u = _iou(boxes[best], boxes[i])
                if method == "gaussian":
                    left[i] *= math.exp(-u * u / sigma)
                elif u > threshold:
                    left[i] *= 1 - u if method == "linear" else 0
    return kept


def _crowd(count: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes that overlap a lot, in float64."""
    corner = 40 * torch.rand(count, 2, dtype=torch.float64)
    boxes = torch.cat([corner, corner + 10 + 30 * torch.rand(count, 2, dtype=torch.float64)], 1)
    scores = torch.rand(count, dtype=torch.float64)
    return boxes, scores, torch.randint(num_classes, (count,)) * 7


@pytest.mark.parametrize("method", ["linear", "gaussian", "hard"])
@pytest.mark.parametrize(("count", "num_classes"), [(1, 1), (40, 1), (60, 5), (30, 30)])
def test_equals_a_loop(method: str, count: int, num_classes: int) -> None:
    boxes, scores, classes = _crowd(count, num_classes)
    found, lowered = soft_nms(
        boxes, scores, classes, method=method, iou_threshold=0.3, sigma=0.4, min_score=0.05
    )
    expected = _reference(boxes.tolist(), scores.tolist(), classes.tolist(), method, 0.3, 0.4, 0.05)
    assert dict(zip(found.tolist(), lowered.tolist(), strict=True)) == pytest.approx(expected)
    assert lowered.tolist() == sorted(lowered.tolist(), reverse=True)
    if count == 40:
        assert 1 < len(found) < 40


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("limit", [1, 5, 17])
def test_a_limit_takes_the_best_of_all(method: str, limit: int) -> None:
    boxes, scores, classes = _crowd(80, 3)
    everything = soft_nms(boxes, scores, classes, method=method)
    limited = soft_nms(boxes, scores, classes, method=method, max_detections=limit)
    assert len(limited[0]) == limit
    for some, every in zip(limited, everything, strict=True):
        assert torch.equal(some, every[:limit])


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_hard_equals_plain_suppression(threshold: float) -> None:
    boxes, scores, classes = _crowd(200, 4)
    boxes, scores = boxes.float(), scores.float()
    found, same = soft_nms(
        boxes, scores, classes, method="hard", iou_threshold=threshold, min_score=0.0
    )
    assert found.tolist() == batched_nms(boxes, scores, classes, threshold).tolist()
    assert torch.equal(same, scores[found])


def test_limits_of_the_soft_methods() -> None:
    boxes, scores, classes = _crowd(100, 2)
    plain = batched_nms(boxes, scores, classes, 1e-9)
    # A narrow sigma leaves nothing of any overlap, a wide one leaves everything as it was.
    narrow, _ = soft_nms(boxes, scores, classes, method="gaussian", sigma=1e-12, min_score=0.0)
    assert set(narrow.tolist()) == set(plain.tolist())
    wide, same = soft_nms(boxes, scores, classes, method="gaussian", sigma=1e9, min_score=0.0)
    assert wide.tolist() == scores.argsort(descending=True).tolist()
    torch.testing.assert_close(same, scores[wide])
    # No overlap is above 1.
    alone, _ = soft_nms(boxes, scores, classes, iou_threshold=1.0, min_score=0.0)
    assert len(alone) == 100


def test_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 5, 10, 10], [0, 0, 10, 10]])
    scores = torch.tensor([0.9, 0.8, 0.3, 0.7])
    classes = torch.tensor([1, 1, 1, 0])
    found, lowered = soft_nms(boxes, scores, classes, iou_threshold=0.4)
    # The first halves the scores of its halves, which do not touch each other.
    assert found.tolist() == [0, 3, 1, 2]
    assert lowered.tolist() == pytest.approx([0.9, 0.7, 0.4, 0.15])
    found, _ = soft_nms(boxes, scores, classes, iou_threshold=0.4, min_score=0.2)
    assert found.tolist() == [0, 3, 1]
    found, _ = soft_nms(boxes, scores, classes, iou_threshold=0.4, min_score=0.9)
    assert found.tolist() == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores(dtype: torch.dtype) -> None:
    boxes, scores, classes = _crowd(30, 2)
    boxes, scores = boxes.float() + 1000, scores.to(dtype)
    found, lowered = soft_nms(boxes, scores, classes)
    expected, _ = soft_nms(boxes, scores.float(), classes)
    assert lowered.dtype == dtype
    assert torch.equal(found, expected)


def test_nothing_and_boxes_without_area() -> None:
    nothing = soft_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert [len(x) for x in nothing] == [0, 0]
    points = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3]])
    scores = torch.tensor([0.5, 0.6])
    found, same = soft_nms(points, scores, torch.zeros(2, dtype=torch.int64), method="gaussian")
    assert found.tolist() == [1, 0]
    assert same.tolist() == pytest.approx([0.6, 0.5])
    found, _ = soft_nms(points, scores, torch.zeros(2, dtype=torch.int64), max_detections=0)
    assert len(found) == 0


def test_wrong_settings() -> None:
    boxes, scores, classes = _crowd(2, 1)
    with pytest.raises(ValueError, match="expected one of linear, gaussian, hard, got 'soft'"):
        soft_nms(boxes, scores, classes, method="soft")
    with pytest.raises(ValueError, match="sigma: expected more than 0, got 0"):
        soft_nms(boxes, scores, classes, method="gaussian", sigma=0)
    with pytest.raises(ValueError, match="min_score: expected 0 or more, got -1"):
        soft_nms(boxes, scores, classes, min_score=-1)

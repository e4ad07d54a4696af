# SPDX-License-Identifier: Apache-2.0
"""Suppression that lowers the scores of overlapping boxes instead of dropping them.

Shapes: ``N`` boxes of ``C`` classes, ``M`` boxes of the largest class. Boxes are XYXY in pixels.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["SoftNMSMethod", "check_soft_nms", "soft_nms"]

SoftNMSMethod = Literal["linear", "gaussian", "hard"]

# Steps between two looks at whether anything is left, each of which waits for an accelerator.
_STEPS_BETWEEN_LOOKS = 16


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    method: SoftNMSMethod = "linear",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    min_score: float = 0.001,
    max_detections: int = -1,
) -> tuple[Tensor, Tensor]:
    """Take boxes best first, each class by itself, and lower the scores of those they overlap.

    All classes take their next box in one step, so there are as many steps as the largest class
    has boxes, or ``max_detections``, and no loop over classes.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``, none below 0.
        classes: ``(N,)`` integers; boxes of different classes do not affect each other.
        method: what a taken box does to another of its class, by their IoU ``u``: ``linear``
            multiplies its score by ``1 - u`` where ``u`` is above the threshold, ``gaussian``
            by ``exp(-u * u / sigma)``, ``hard`` by 0 where ``u`` is above the threshold, which is
            plain non-maximum suppression.
        iou_threshold: of ``linear`` and ``hard``.
        sigma: of ``gaussian``; more is softer.
        min_score: boxes are dropped when their score is no longer above it; at least 0.
        max_detections: boxes to return at most; negative: all.

    Returns:
        ``(K,)`` int64 indices of the boxes that stay, and their ``(K,)`` lowered scores, best
        first.

    Raises:
        ValueError: an unknown method, or a sigma or minimum out of range.

    Source: Soft-NMS, arXiv 1704.04503, figure 2 and equations 1 to 3.
    """
    check_soft_nms(method, sigma, min_score)
    if len(boxes) == 0 or max_detections == 0:
        return classes.new_zeros(0, dtype=torch.int64), scores[:0]
    dtype = torch.promote_types(scores.dtype, torch.float32)  # halves cannot hold pixels
    table, row, column = _by_class(classes)
    table_boxes = boxes.new_zeros((*table.shape, 4), dtype=dtype)  # (C, M, 4)
    table_boxes[row, column] = boxes.to(dtype)
    left = scores.new_zeros(table.shape, dtype=dtype)  # (C, M), 0: taken, dropped or no box
    left[row, column] = scores.to(dtype)
    areas = _area(table_boxes)

    taken, taken_scores = [], []
    num_classes, num_steps = table.shape
    every_class = torch.arange(num_classes, device=boxes.device)
    for step in range(num_steps if max_detections < 0 else min(num_steps, max_detections)):
        best, which = left.max(dim=1)
        if step % _STEPS_BETWEEN_LOOKS == 0 and not bool((best > min_score).any()):
            break
        taken.append(table[every_class, which])
        taken_scores.append(best)
        overlap = _iou(table_boxes[every_class, which], table_boxes, areas)
        left = left * _decay(overlap, method, iou_threshold, sigma)
        left[every_class, which] = 0
    if not taken:
        return classes.new_zeros(0, dtype=torch.int64), scores[:0]

    kept_scores, order = torch.cat(taken_scores).sort(descending=True, stable=True)
    order = order[kept_scores > min_score]
    if max_detections >= 0:
        order = order[:max_detections]
    return torch.cat(taken)[order], kept_scores[: len(order)].to(scores.dtype)


def check_soft_nms(method: str, sigma: float, min_score: float) -> None:
    """Check settings before there are boxes.

    Args:
        method: see ``soft_nms``.
        sigma: of ``gaussian``.
        min_score: see ``soft_nms``.

    Raises:
        ValueError: an unknown method, or a sigma or minimum out of range.
    """
    if method not in get_args(SoftNMSMethod):
        known = ", ".join(get_args(SoftNMSMethod))
        raise ValueError(f"soft-NMS method: expected one of {known}, got {method!r}")
    if sigma <= 0:
        raise ValueError(f"soft-NMS sigma: expected more than 0, got {sigma}")
    if min_score < 0:
        raise ValueError(f"soft-NMS min_score: expected 0 or more, got {min_score}")


def _decay(iou: Tensor, method: SoftNMSMethod, iou_threshold: float, sigma: float) -> Tensor:
    """Return the factors of scores of boxes that overlap a taken one."""
    if method == "gaussian":
        return torch.exp(-iou.square() / sigma)
    rest = 1 - iou if method == "linear" else torch.zeros_like(iou)
    return torch.where(iou > iou_threshold, rest, 1)


def _by_class(classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Arrange boxes in one row per class.

    Args:
        classes: ``(N,)``.

    Returns:
        ``(C, M)`` the index of each cell's box, 0 in cells without one, and the ``(N,)`` row and
        column of each box.
    """
    _, row, counts = classes.unique(return_inverse=True, return_counts=True)
    order = row.argsort(stable=True)
    first = counts.cumsum(0) - counts
    position = torch.arange(len(classes), device=classes.device)
    column = torch.empty_like(position)
    column[order] = position - first[row[order]]
    table = position.new_zeros((len(counts), int(counts.max())))
    table[row, column] = position
    return table, row, column


def _area(boxes: Tensor) -> Tensor:
    """Return ``(...)`` areas of ``(..., 4)`` boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _iou(taken: Tensor, boxes: Tensor, areas: Tensor) -> Tensor:
    """Return the ``(C, M)`` IoU of one box per row with each of its row; 0 without area."""
    corner = torch.maximum(taken[:, None, :2], boxes[..., :2])
    size = (torch.minimum(taken[:, None, 2:], boxes[..., 2:]) - corner).clamp(min=0)
    inner = size[..., 0] * size[..., 1]
    union = _area(taken)[:, None] + areas - inner
    return torch.where(inner > 0, inner / union, 0)

# SPDX-License-Identifier: Apache-2.0
"""From dense predictions of the RPN to proposals, for a whole batch at once.

Shapes: ``N`` images, ``L`` feature maps, ``R_l`` predictions on map ``l``, ``P`` proposals of an
image. Boxes are XYXY in pixels of the input image.

Source: Faster R-CNN, arXiv 1506.01497; the proposals of detectron2
``proposal_generator/proposal_utils.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from vitdet_d2.heads.ordered_nms import ordered_nms

__all__ = ["Proposals", "best_of_levels", "select_proposals"]


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Boxes of a batch, best first; the last places of an image may be empty.

    Attributes:
        boxes: ``(N, P, 4)``; zeros where a place is empty.
        logits: ``(N, P)``; -inf where a place is empty.
        all_finite: scalar bool: whether no candidate was NaN or infinite.
    """

    boxes: Tensor
    logits: Tensor
    all_finite: Tensor

    def instances(self, image_sizes: Sequence[tuple[int, int]], *, padded: bool) -> list[Instances]:
        """Return ``proposal_boxes`` and ``objectness_logits`` of every image.

        Args:
            image_sizes: ``(height, width)`` of each image.
            padded: with the empty places; without them the host waits once for their number.
        """
        results = []
        full = self.logits.shape[1]
        counts = [full] * len(image_sizes)
        if not padded:
            counts = (self.logits != -torch.inf).sum(dim=1).tolist()
        for boxes, logits, size, count in zip(
            self.boxes, self.logits, image_sizes, counts, strict=True
        ):
            result = Instances(size)
            result.proposal_boxes = Boxes(boxes[:count])
            result.objectness_logits = logits[:count]
            results.append(result)
        return results


def best_of_levels(
    anchors: Sequence[Tensor],
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    topk: int,
    box2box_transform: Any,
) -> tuple[Tensor, Tensor, list[int]]:
    """Choose the best predictions of every level, best first, and decode these alone.

    Args:
        anchors: ``(R_l, 4)`` of each level.
        logits: ``(N, R_l)`` of each level.
        deltas: ``(N, R_l, 4)`` of each level.
        topk: at most so many of a level.
        box2box_transform: the parametrisation of the deltas.

    Returns:
        Boxes ``(N, C, 4)``, logits ``(N, C)``, and how many of the ``C`` each level has.
    """
    sizes, best_logits, best_deltas, best_anchors = [], [], [], []
    for level_anchors, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
        sizes.append(min(level_logits.shape[1], int(topk)))
        values, index = level_logits.topk(sizes[-1], dim=1)
        best_logits.append(values)
        best_deltas.append(level_deltas.gather(1, index[:, :, None].expand(-1, -1, 4)))
        best_anchors.append(level_anchors[index])
    boxes = box2box_transform.apply_deltas(
        torch.cat(best_deltas, dim=1).flatten(0, 1), torch.cat(best_anchors, dim=1).flatten(0, 1)
    )
    candidates = torch.cat(best_logits, dim=1)
    return boxes.view(*candidates.shape, 4), candidates, sizes


def select_proposals(
    boxes: Tensor,
    logits: Tensor,
    sizes: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    *,
    nms_thresh: float,
    topk: int,
    min_box_size: float,
) -> Proposals:
    """Clip candidates to their images and drop small, broken and duplicate ones; nothing waits.

    Args:
        boxes: ``(N, C, 4)``, level by level, the best of each level first.
        logits: ``(N, C)``.
        sizes: candidates of each level.
        image_sizes: ``(height, width)`` of each image.
        nms_thresh: IoU above which the worse of two boxes of one level is dropped.
        topk: proposals of an image, over all levels.
        min_box_size: boxes whose clipped sides are not longer than this are dropped.

    Returns:
        With ``P = min(topk, C)``.
    """
    usable = boxes.isfinite().all(dim=2) & logits.isfinite()
    all_finite = usable.all()
    boxes = _clipped(boxes, image_sizes)
    usable &= ((boxes[..., 2:] - boxes[..., :2]) > min_box_size).all(dim=2)
    # Boxes that are dropped anyway suppress nothing.
    boxes = torch.where(usable[:, :, None], boxes, 0.0)
    usable &= ordered_nms(boxes, sizes, nms_thresh)
    scores = logits.masked_fill(~usable, -torch.inf)
    best, index = scores.topk(min(int(topk), scores.shape[1]), dim=1)
    chosen = boxes.gather(1, index[:, :, None].expand(-1, -1, 4))
    return Proposals(
        boxes=torch.where((best != -torch.inf)[:, :, None], chosen, 0.0),
        logits=best,
        all_finite=all_finite,
    )


def _clipped(boxes: Tensor, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Clip the boxes of every image to it; NaN stays."""
    if len(set(image_sizes)) == 1:
        height, width = image_sizes[0]
        x = boxes[..., 0::2].clamp(0, width)
        y = boxes[..., 1::2].clamp(0, height)
        return torch.stack((x, y), dim=-1).flatten(-2)
    parts = zip(boxes.split(1), image_sizes, strict=True)
    return torch.cat([_clipped(part, [size]) for part, size in parts])

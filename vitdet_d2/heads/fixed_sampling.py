# SPDX-License-Identifier: Apache-2.0
"""Random samples of positive and negative boxes, in tensors whose sizes do not depend on the data.

Shapes: ``N`` images, ``R`` boxes of each, ``P`` places for positives, ``S`` for negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FixedSample", "sample_fixed"]


@dataclass(frozen=True, kw_only=True)
class FixedSample:
    """What was drawn of every image; places that nothing was drawn for are marked.

    Attributes:
        positive: ``(N, P)`` int64 indices of boxes.
        has_positive: ``(N, P)`` bool: whether the place is taken; taken places come first.
        negative: ``(N, S)`` int64.
        has_negative: ``(N, S)`` bool; taken places come first.
    """

    positive: Tensor
    has_positive: Tensor
    negative: Tensor
    has_negative: Tensor


def sample_fixed(
    labels: Tensor, num_samples: int, positive_fraction: float, background: int
) -> FixedSample:
    """Draw up to ``num_samples`` boxes of every image without repetition; nothing waits.

    Every set of as many positives, and every set of as many negatives, is equally likely, as with
    Detectron2's ``subsample_labels``, whose numbers it does not draw.

    Args:
        labels: ``(N, R)`` integers: -1 ignored, ``background`` negative, all others positive.
        num_samples: of each image; fewer where there are not enough.
        positive_fraction: at most this share of ``num_samples`` is positive; negatives fill up
            what positives leave.
        background: the label of negatives.

    Returns:
        With ``P = min(int(num_samples * positive_fraction), R)`` and ``S = min(num_samples, R)``.
    """
    num_boxes = labels.shape[1]
    limit = min(int(num_samples * positive_fraction), num_boxes)
    is_negative = labels == background
    is_positive = (labels != -1) & ~is_negative
    # A random order: the candidates with the largest numbers are drawn.
    order = torch.rand(labels.shape, device=labels.device)
    positive, has_positive = _largest(order, is_positive, limit)
    negative, has_negative = _largest(order, is_negative, min(num_samples, num_boxes))
    left = num_samples - has_positive.sum(dim=1, keepdim=True)  # (N, 1)
    place = torch.arange(negative.shape[1], device=labels.device)
    return FixedSample(
        positive=positive,
        has_positive=has_positive,
        negative=negative,
        has_negative=has_negative & (place < left),
    )


def _largest(order: Tensor, candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the candidates with the largest numbers, and which exist."""
    values, index = order.masked_fill(~candidates, -1.0).topk(count, dim=1)
    return index, values >= 0

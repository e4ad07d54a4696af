# SPDX-License-Identifier: Apache-2.0
"""Random choice of the predictions that take part in a loss.

Source: equals detectron2 ``sampling.py``, random generator use included.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["subsample_labels"]


def _choose(candidates: Tensor, count: int) -> Tensor:
    """Return ``count`` random elements of a vector."""
    # Always a whole permutation, so that a seeded run draws the same numbers as Detectron2's.
    return candidates[torch.randperm(len(candidates), device=candidates.device)[:count]]


def subsample_labels(
    labels: Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[Tensor, Tensor]:
    """Draw up to ``num_samples`` predictions, some positive and the rest negative.

    Args:
        labels: ``(N,)`` integers: -1 ignored, ``bg_label`` negative, all others positive.
        num_samples: how many to draw in all; fewer where there are not enough.
        positive_fraction: at most this share of ``num_samples`` is positive; negatives fill up
            what positives leave.
        bg_label: the label of negatives.

    Returns:
        Indices of the drawn positives and of the drawn negatives, each in random order.
    """
    negative_mask = labels == bg_label
    positive = torch.nonzero((labels != -1) & ~negative_mask).squeeze(1)
    negative = torch.nonzero(negative_mask).squeeze(1)
    num_positive = min(len(positive), int(num_samples * positive_fraction))
    num_negative = min(len(negative), num_samples - num_positive)
    return _choose(positive, num_positive), _choose(negative, num_negative)

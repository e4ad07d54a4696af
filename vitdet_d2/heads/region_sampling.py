# SPDX-License-Identifier: Apache-2.0
"""Proposals that the region heads are trained on, labelled and drawn without asking the device.

Shapes: ``N`` images, ``R`` proposals of the image that has most, ``S`` places for the sample of an
image, foreground first. Class ``K`` is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vitdet_d2.heads.box_matching import match
from vitdet_d2.heads.fixed_sampling import sample_fixed

__all__ = ["EMPTY", "RegionSample", "sample_regions"]

# The class of a place that no proposal was drawn for; no loss counts it.
EMPTY = -1


@dataclass(frozen=True, kw_only=True)
class RegionSample:
    """What was drawn of every image.

    Attributes:
        index: ``(N, S)`` int64, which proposals; 0 at empty places.
        objects: ``(N, S)`` int64, the object that each overlaps most; 0 where there is none.
        classes: ``(N, S)`` int64; `EMPTY` at empty places, which come last.
        num_foreground: ``(N,)`` int64.
        num_drawn: ``(N,)`` int64, foreground included.
    """

    index: Tensor
    objects: Tensor
    classes: Tensor
    num_foreground: Tensor
    num_drawn: Tensor

    @property
    def is_foreground(self) -> Tensor:
        """``(N, S)`` bool."""
        place = torch.arange(self.index.shape[1], device=self.index.device)
        return place < self.num_foreground[:, None]


def sample_regions(
    proposals: Sequence[Instances],
    targets: Sequence[Instances],
    matcher: Any,
    *,
    num_classes: int,
    num_samples: int,
    positive_fraction: float,
) -> RegionSample:
    """Label the proposals of every image by its ground truth, and draw some.

    Args:
        proposals: for each image ``proposal_boxes``; those whose ``objectness_logits`` are -inf are
            empty places, and never drawn.
        targets: for each image ``gt_boxes`` and ``gt_classes``.
        matcher: labels proposals by their IoU with ground truth.
        num_classes: K.
        num_samples: of each image; fewer where there are not enough.
        positive_fraction: at most this share of them is foreground.

    Returns:
        With ``S = min(num_samples, R)``.

    Source: Fast R-CNN, arXiv 1504.08083, section 2.3; what detectron2's
        ``ROIHeads.label_and_sample_proposals`` draws from, each choice as likely.
    """
    labels, matches = [], []
    for image, truth in zip(proposals, targets, strict=True):
        found, label = match(matcher, pairwise_iou(truth.gt_boxes, image.proposal_boxes))
        if len(truth) > 0:
            classes = truth.gt_classes[found].masked_fill(label == 0, num_classes)
            classes = classes.masked_fill(label == -1, EMPTY)
        else:
            classes = torch.full_like(found, num_classes)
        if image.has("objectness_logits"):
            classes = classes.masked_fill(image.objectness_logits == -torch.inf, EMPTY)
        labels.append(classes)
        matches.append(found)
    all_classes = pad_sequence(labels, batch_first=True, padding_value=EMPTY)  # (N, R)
    sample = sample_fixed(all_classes, num_samples, positive_fraction, num_classes)

    num_foreground = sample.has_positive.sum(dim=1, keepdim=True)
    num_drawn = num_foreground + sample.has_negative.sum(dim=1, keepdim=True)
    place = torch.arange(sample.negative.shape[1], device=all_classes.device)  # (S,)
    # Foreground from the places for it, then background from the start of its own.
    offset = sample.positive.shape[1] - num_foreground
    source = torch.where(place < num_foreground, place, place + offset)
    is_taken = place < num_drawn
    index = torch.cat((sample.positive, sample.negative), dim=1).gather(1, source)
    index = index.masked_fill(~is_taken, 0)
    return RegionSample(
        index=index,
        objects=pad_sequence(matches, batch_first=True).gather(1, index),
        classes=all_classes.gather(1, index).masked_fill(~is_taken, EMPTY),
        num_foreground=num_foreground[:, 0],
        num_drawn=num_drawn[:, 0],
    )

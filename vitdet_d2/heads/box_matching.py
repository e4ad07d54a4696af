# SPDX-License-Identifier: Apache-2.0
"""Assignment of boxes to ground truth, without a question to the device.

Shapes: ``M`` ground-truth elements, ``R`` boxes.
"""

from __future__ import annotations

import torch
from detectron2.modeling.matcher import Matcher
from torch import Tensor

__all__ = ["match"]


def match(matcher: Matcher, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Match as the matcher does; Detectron2's own also waits for the device.

    Args:
        matcher: one of another class, or a subclass, is called as it is, and may wait.
        quality: ``(M, R)``, such as IoU, every value >= 0.

    Returns:
        ``(R,)`` int64 index of the best ground-truth element, 0 where there is none, and ``(R,)``
        int8 label: 1 positive, 0 negative, -1 ignored.

    Source: Faster R-CNN, arXiv 1506.01497, section 3.1.2; equals detectron2 ``matcher.py``.
    """
    if type(matcher) is not Matcher:
        return matcher(quality)
    num_elements, num_boxes = quality.shape
    labels = torch.full((num_boxes,), matcher.labels[0], dtype=torch.int8, device=quality.device)
    if num_elements == 0:
        return torch.zeros_like(labels, dtype=torch.int64), labels
    best, matches = quality.max(dim=0)
    # Without the infinite borders at both ends.
    for border, label in zip(matcher.thresholds[1:-1], matcher.labels[1:], strict=True):
        labels.masked_fill_(best >= border, label)
    if matcher.allow_low_quality_matches and num_boxes > 0:
        # The best boxes of every element become positive, and stay matched to their own best.
        is_best = quality == quality.amax(dim=1, keepdim=True)
        labels.masked_fill_(is_best.any(dim=0), 1)
    return matches, labels

# SPDX-License-Identifier: Apache-2.0
"""Box losses that look at overlap, distance and shape; ``giou_loss`` is in fvcore.

Source: arXiv 1911.08287, equations 7 and 10; the behaviour of detectron2 ``layers/losses.py``.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss

__all__ = ["ciou_loss", "diou_loss"]


def diou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Return ``1 - IoU``, plus the distance of the centres relative to the enclosing box.

    Args:
        boxes1: ``(N, 4)`` or ``(4,)`` XYXY, ``x0 <= x1`` and ``y0 <= y1``.
        boxes2: the same shape.
        reduction: ``none``, ``mean`` (0 for no boxes) or ``sum``.
        eps: keeps divisors above 0.

    Returns:
        ``(N,)``, or a scalar.

    Raises:
        ValueError: another reduction.
    """
    return distance_box_iou_loss(boxes1, boxes2, reduction, eps)


def ciou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Return ``diou_loss`` plus a penalty on the difference of the aspect ratios.

    Args:
        boxes1: ``(N, 4)`` or ``(4,)`` XYXY, ``x0 < x1`` and ``y0 < y1``.
        boxes2: the same shape.
        reduction: ``none``, ``mean`` (0 for no boxes) or ``sum``.
        eps: keeps divisors above 0.

    Returns:
        ``(N,)``, or a scalar.

    Raises:
        ValueError: another reduction.
    """
    return complete_box_iou_loss(boxes1, boxes2, reduction, eps)

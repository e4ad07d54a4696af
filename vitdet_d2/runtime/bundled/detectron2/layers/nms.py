# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression, per class, on torchvision's operator.

Source: the behaviour of detectron2 ``layers/nms.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["batched_nms", "nms"]

__getattr__ = absent_attribute(__name__)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes that overlap a better one of the same category.

    Args:
        boxes: ``(N, 4)``, XYXY; rounded to float32, since half precision cannot hold the offsets
            that keep categories apart.
        scores: ``(N,)``, of any floating type: those of a float64 model are compared as such.
        idxs: ``(N,)``, the category (or feature level) of each box.
        iou_threshold: boxes of one category with a larger IoU than this are duplicates.

    Returns:
        ``(K,)``, int64: indices of the boxes to keep, best score first.

    Raises:
        ValueError: ``boxes`` has not four columns.
    """
    if boxes.shape[-1] != 4:
        raise ValueError(f"boxes: expected shape (N, 4), got {list(boxes.shape)}")
    # The operator takes boxes and scores of one type only, and float64 scores stay what they are.
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return box_ops.batched_nms(boxes.float().to(dtype), scores.to(dtype), idxs, iou_threshold)

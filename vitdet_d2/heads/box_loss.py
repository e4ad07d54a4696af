# SPDX-License-Identifier: Apache-2.0
"""The localisation loss of boxes of which some places are empty, without a question to the device.

Shapes: ``R`` boxes, XYXY in pixels.

Source: equals detectron2 ``modeling/box_regression.py`` on the boxes that count.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor
from torchvision.ops import (
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
)

__all__ = ["box_deltas", "masked_box_loss"]

_IOU_LOSSES = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


def box_deltas(box2box_transform: Any, source: Tensor, target: Tensor) -> Tensor:
    """Return the deltas from source to target; Detectron2 also asks the device for flat boxes.

    Args:
        box2box_transform: a parametrisation of another class, or a subclass, is called as it is,
            and may wait.
        source: ``(R, 4)``; without positive width the result is NaN or infinite.
        target: ``(R, 4)``.

    Returns:
        ``(R, 4)``.
    """
    if type(box2box_transform) is not Box2BoxTransform:
        return box2box_transform.get_deltas(source, target)
    source_size = source[:, 2:] - source[:, :2]
    target_size = target[:, 2:] - target[:, :2]
    source_center = source[:, :2] + 0.5 * source_size
    target_center = target[:, :2] + 0.5 * target_size
    wx, wy, ww, wh = box2box_transform.weights
    shift = (target_center - source_center, torch.log(target_size / source_size))
    return torch.stack(
        (
            wx * shift[0][:, 0] / source_size[:, 0],
            wy * shift[0][:, 1] / source_size[:, 1],
            ww * shift[1][:, 0],
            wh * shift[1][:, 1],
        ),
        dim=1,
    )


def masked_box_loss(
    deltas: Tensor,
    source: Tensor,
    target: Tensor,
    counts: Tensor,
    *,
    box2box_transform: Any,
    loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> Tensor:
    """Return the loss summed over the boxes that count.

    Args:
        deltas: ``(R, 4)`` predictions.
        source: ``(R, 4)`` boxes that they deform.
        target: ``(R, 4)`` boxes that they should become.
        counts: ``(R,)`` bool; what the other rows hold does not matter, NaN included.
        box2box_transform: the parametrisation of the deltas.
        loss_type: ``smooth_l1`` on deltas waits for nothing; ``giou``, ``diou`` and ``ciou``, on
            boxes, wait inside torchvision.
        smooth_l1_beta: where ``smooth_l1`` turns from quadratic to linear; 0 is plain L1.

    Returns:
        A scalar; 0, with a graph, when no box counts.

    Raises:
        ValueError: an unknown loss.
    """
    # A box and itself have finite deltas, and a finite gradient, whatever else the row holds.
    unit = torch.arange(4, device=source.device).ge(2).to(source.dtype)  # (0, 0, 1, 1)
    mask = counts[:, None]
    source = torch.where(mask, source, unit)
    target = torch.where(mask, target, unit)
    deltas = torch.where(mask, deltas, 0.0)
    if loss_type == "smooth_l1":
        wanted = box_deltas(box2box_transform, source, target)
        # Boxes are float32; a model may be in half or in double precision.
        dtype = torch.promote_types(deltas.dtype, wanted.dtype)
        return F.smooth_l1_loss(
            deltas.to(dtype), wanted.to(dtype), beta=smooth_l1_beta, reduction="sum"
        )
    if loss_type not in _IOU_LOSSES:
        known = ", ".join(["smooth_l1", *_IOU_LOSSES])
        raise ValueError(f"box_reg_loss_type: expected one of {known}, got {loss_type!r}")
    boxes = box2box_transform.apply_deltas(deltas, source)
    return _IOU_LOSSES[loss_type](boxes, target, reduction="none").where(counts, 0.0).sum()

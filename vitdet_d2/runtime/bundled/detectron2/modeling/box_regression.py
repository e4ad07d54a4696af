# SPDX-License-Identifier: Apache-2.0
"""Boxes as deformations of other boxes, and the losses on them.

Shapes: ``R`` boxes, ``K`` deformations per box. Boxes are XYXY in pixels. "Deltas" are
``(dx, dy, dw, dh)``: the shift of the centre in units of the source size, and the logarithm of the
scaling, each times a constant weight.

Source: R-CNN, arXiv 1311.2524, appendix C; equals detectron2 ``box_regression.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import (
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
)

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["Box2BoxTransform", "Box2BoxTransformLinear", "BoxTransform", "box_regression_loss"]

__getattr__ = absent_attribute(__name__)

# The largest growth that a prediction may ask for: from a small anchor (16 pixels) to a whole
# image (1000 pixels). Without a limit, exp() overflows early in training.
_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)


class BoxTransform(Protocol):
    """What the heads ask of a box parametrisation."""

    weights: Sequence[float]

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return the ``(R, 4)`` deltas from source to target."""

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Return the deformed boxes in the shape of ``deltas``."""


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split ``(R, 4)`` XYXY boxes into centre x, centre y, width and height, ``(R,)`` each."""
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    width, height = x1 - x0, y1 - y0
    return x0 + 0.5 * width, y0 + 0.5 * height, width, height


class Box2BoxTransform:
    """The parametrisation of R-CNN: shift relative to the size, and logarithmic scaling."""

    def __init__(self, weights: Sequence[float], scale_clamp: float = _DEFAULT_SCALE_CLAMP) -> None:
        """Store the constants.

        Args:
            weights: four factors of ``(dx, dy, dw, dh)``, by which a head's outputs get a
                standard deviation near 1.
            scale_clamp: upper limit of the logarithmic scaling when deltas are applied.

        Raises:
            ValueError: not four weights.
        """
        if len(weights) != 4:
            raise ValueError(f"weights: expected 4 numbers (dx, dy, dw, dh), got {list(weights)}")
        self.weights = tuple(weights)
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return the deltas that turn source boxes into target boxes.

        Args:
            src_boxes: ``(R, 4)`` with positive width and height.
            target_boxes: ``(R, 4)`` with positive width and height.

        Returns:
            ``(R, 4)``.

        Raises:
            ValueError: a source box without width. Checked on the CPU only, because asking an
                accelerator would wait for it; there the loss turns into NaN or infinity.
        """
        src_x, src_y, src_w, src_h = _center_and_size(src_boxes)
        target_x, target_y, target_w, target_h = _center_and_size(target_boxes)
        if src_boxes.device.type == "cpu" and not bool((src_w > 0).all()):
            raise ValueError("src_boxes: expected boxes with x0 < x1, got one without width")
        wx, wy, ww, wh = self.weights
        return torch.stack(
            (
                wx * (target_x - src_x) / src_w,
                wy * (target_y - src_y) / src_h,
                ww * torch.log(target_w / src_w),
                wh * torch.log(target_h / src_h),
            ),
            dim=1,
        )

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Deform boxes.

        Args:
            deltas: ``(R, K * 4)``, ``K`` deformations of each box.
            boxes: ``(R, 4)``.

        Returns:
            ``(R, K * 4)`` float32 boxes: half precision cannot hold pixel coordinates.
        """
        shape = deltas.shape
        deltas = deltas.float()
        x, y, w, h = (v[:, None] for v in _center_and_size(boxes.to(deltas.dtype)))
        # (R, K) each
        dx, dy, dw, dh = (
            d / weight
            for d, weight in zip(
                deltas.reshape(shape[0], shape[1] // 4, 4).unbind(dim=2), self.weights, strict=True
            )
        )
        center_x, center_y = dx * w + x, dy * h + y
        half_w = 0.5 * (torch.exp(dw.clamp(max=self.scale_clamp)) * w)
        half_h = 0.5 * (torch.exp(dh.clamp(max=self.scale_clamp)) * h)
        corners = (center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h)
        return torch.stack(corners, dim=-1).reshape(shape)


class Box2BoxTransformLinear:
    """The parametrisation of FCOS: distances from the source's centre to the target's four sides.

    Source: FCOS, arXiv 1904.01355, equation 1; equals detectron2 ``Box2BoxTransformLinear``.
    """

    def __init__(self, normalize_by_size: bool = True) -> None:
        """Choose the unit.

        Args:
            normalize_by_size: measure in sides of the source box instead of pixels.
        """
        self.normalize_by_size = normalize_by_size

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return the distances to the left, top, right and bottom side.

        Args:
            src_boxes: ``(R, 4)``, for example square anchors.
            target_boxes: ``(R, 4)`` around the centres of the source boxes: ``apply_deltas`` takes
                negative distances as 0.

        Returns:
            ``(R, 4)``.
        """
        center, unit = self._center_and_unit(src_boxes)
        lower, upper = target_boxes.split(2, dim=1)
        return torch.cat([center - lower, upper - center], dim=1) / unit.repeat(1, 2)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Return the boxes at these distances.

        Args:
            deltas: ``(R, K * 4)``, ``K`` deformations of each box.
            boxes: ``(R, 4)``.

        Returns:
            ``(R, K * 4)``, in the type of ``deltas``; lower corners are never right of or below
            upper ones.
        """
        center, unit = self._center_and_unit(boxes.to(deltas.dtype))
        # (R, K * 4) -> (R, K, left-top / right-bottom, 2)
        distances = deltas.relu().reshape(deltas.shape[0], -1, 2, 2) * unit[:, None, None]
        sign = distances.new_tensor([[-1.0], [1.0]])
        return (center[:, None, None] + sign * distances).reshape(deltas.shape)

    def _center_and_unit(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = boxes.split(2, dim=1)
        unit = upper - lower if self.normalize_by_size else torch.ones_like(lower)
        return (lower + upper) / 2, unit


_IOU_LOSSES = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


def check_box_loss_type(name: str) -> str:
    """Return ``name`` when it is a known box loss.

    Args:
        name: ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.

    Returns:
        ``name``.

    Raises:
        ValueError: another name.
    """
    if name != "smooth_l1" and name not in _IOU_LOSSES:
        known = ", ".join(["smooth_l1", *_IOU_LOSSES])
        raise ValueError(f"box_reg_loss_type: expected one of {known}, got {name!r}")
    return name


def box_regression_loss(
    pred_deltas: Tensor,
    src_boxes: Tensor,
    gt_boxes: Tensor,
    *,
    box2box_transform: BoxTransform,
    loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> Tensor:
    """Return the summed localisation loss of positive predictions.

    Args:
        pred_deltas: ``(R, 4)`` predictions.
        src_boxes: ``(R, 4)`` boxes that the predictions deform.
        gt_boxes: ``(R, 4)`` boxes that they should become.
        box2box_transform: the parametrisation of the deltas.
        loss_type: ``smooth_l1`` on deltas, or ``giou``, ``diou``, ``ciou`` on boxes.
        smooth_l1_beta: where ``smooth_l1`` turns from quadratic to linear; 0 is plain L1.

    Returns:
        A scalar; 0, with a graph, when there are no boxes.
    """
    check_box_loss_type(loss_type)
    if loss_type == "smooth_l1":
        gt_deltas = box2box_transform.get_deltas(src_boxes, gt_boxes)
        # Boxes are float32; a model may be in half or in double precision.
        dtype = torch.promote_types(pred_deltas.dtype, gt_deltas.dtype)
        return F.smooth_l1_loss(
            pred_deltas.to(dtype), gt_deltas.to(dtype), beta=smooth_l1_beta, reduction="sum"
        )
    pred_boxes = box2box_transform.apply_deltas(pred_deltas, src_boxes)
    return _IOU_LOSSES[loss_type](pred_boxes, gt_boxes, reduction="sum")

# SPDX-License-Identifier: Apache-2.0
"""Labels of anchors by class, and the focal loss on them.

Shapes: ``N`` images, ``K`` classes, ``R_l`` anchors of map ``l``, ``R`` of an image over all maps.
Labels: a class in ``[0, K)``, ``K`` background, -1 ignored.

Source: RetinaNet, arXiv 1708.02002, sections 3 and 4; the loss equals fvcore's
``sigmoid_focal_loss``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["label_anchors", "summed_focal_loss"]


@torch.no_grad()
def label_anchors(
    anchors: Sequence[Boxes],
    gt_instances: Sequence[Instances],
    matcher: Matcher,
    num_classes: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Give every anchor of every image a label and a box; nothing here waits for an accelerator.

    Args:
        anchors: anchors of each feature map.
        gt_instances: for each image ``gt_boxes`` and ``gt_classes``.
        matcher: labels anchors by their IoU with ground truth.
        num_classes: ``K``.

    Returns:
        For each image ``(R,)`` labels, and ``(R, 4)`` boxes that are meaningful where the label is
        a class.
    """
    all_anchors = Boxes.cat(list(anchors))
    labels, boxes = [], []
    for instances in gt_instances:
        matches, found = matcher(pairwise_iou(instances.gt_boxes, all_anchors))
        if len(instances) == 0:
            labels.append(torch.full_like(matches, num_classes))
            boxes.append(torch.zeros_like(all_anchors.tensor))
            continue
        label = instances.gt_classes[matches]
        label.masked_fill_(found == 0, num_classes)
        label.masked_fill_(found == -1, -1)
        labels.append(label)
        boxes.append(instances.gt_boxes.tensor[matches])
    return labels, boxes


def summed_focal_loss(
    pred_logits: Sequence[Tensor], labels: Tensor, *, alpha: float, gamma: float
) -> Tensor:
    """Sum the focal loss over every class of every anchor that is not ignored.

    Args:
        pred_logits: ``(N, R_l, K)`` for each map.
        labels: ``(N, R)``.
        alpha: weight of the class that an anchor has, against that of those it has not,
            ``1 - alpha``; -1 weighs them the same.
        gamma: exponent that takes weight from what is classified well already.

    Returns:
        A scalar, at least in single precision.
    """
    total = pred_logits[0].new_zeros((), dtype=torch.float32)
    sizes = [level.shape[1] for level in pred_logits]
    # Level by level: all of them side by side would be one more copy of every logit.
    for logits, label in zip(pred_logits, labels.split(sizes, dim=1), strict=True):
        # Half precision would lose small losses in the sum.
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = total + _SummedFocalLoss.apply(exact, label, alpha, gamma)
    return total


class _SummedFocalLoss(torch.autograd.Function):
    """The focal loss of one map, which keeps one tensor for the backward pass: the gradient.

    A map of COCO's classes has tens of millions of logits, and autograd would keep ten tensors of
    that size.

    With ``s`` the logit of a class that an anchor has, and its negative for a class it has not:
    the loss is ``w (1 - p)^gamma softplus(-s)`` of ``p = sigmoid(s)``, and its derivative to ``s``
    is ``-w (1 - p)^gamma (gamma p softplus(-s) + 1 - p)``.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        """Sum over ``(N, R_l, K)`` logits with ``(N, R_l)`` labels."""
        classes = torch.arange(logits.shape[2], device=labels.device)
        has = labels[:, :, None] == classes  # background: none; ignored ones are weighed 0 below
        signed = torch.where(has, logits, -logits)
        missing = torch.sigmoid(-signed)  # 1 - p
        weights = missing**gamma * (labels >= 0)[:, :, None]
        if alpha >= 0:
            weights *= torch.where(has, alpha, 1.0 - alpha).to(logits.dtype)
        entropy = F.softplus(-signed)
        loss = (weights * entropy).sum()
        slope = weights * ((1.0 - missing) * entropy * gamma + missing)
        ctx.save_for_backward(torch.where(has, -slope, slope))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale the kept gradient."""
        (slope,) = ctx.saved_tensors
        return slope * gradient, None, None, None

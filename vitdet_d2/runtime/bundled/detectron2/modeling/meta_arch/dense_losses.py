# SPDX-License-Identifier: Apache-2.0
"""Labels of anchors by class, and the focal loss on them.

Shapes: ``N`` images, ``K`` classes, ``R_l`` anchors of map ``l``, ``R`` of an image over all maps.
Labels: a class in ``[0, K)``, ``K`` background, -1 ignored.

Source: RetinaNet, arXiv 1708.02002, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

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
    classes = torch.arange(pred_logits[0].shape[2], device=labels.device)
    total = pred_logits[0].new_zeros((), dtype=torch.float32)
    sizes = [level.shape[1] for level in pred_logits]
    # Level by level: all of them side by side would be one more copy of every logit.
    for logits, label in zip(pred_logits, labels.split(sizes, dim=1), strict=True):
        # Half precision would lose small losses in the sum.
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = (label[:, :, None] == classes).to(exact.dtype)  # background: all 0
        loss = sigmoid_focal_loss(exact, targets, alpha=alpha, gamma=gamma)
        total = total + torch.where((label >= 0)[:, :, None], loss, 0.0).sum()
    return total

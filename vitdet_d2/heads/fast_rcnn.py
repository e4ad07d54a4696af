# SPDX-License-Identifier: Apache-2.0
"""The losses of class scores and boxes of regions, without asking the device.

Shapes: ``R`` regions over all images, ``K`` foreground classes. Class ``K`` is background; a class
below 0 marks an empty place, which no loss counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import roi_heads
from detectron2.structures import Instances
from torch import Tensor

from vitdet_d2.heads.box_loss import masked_box_loss
from vitdet_d2.heads.federated import federated_classes
from vitdet_d2.heads.late_scalars import log_scalars

__all__ = ["FastRCNNOutputLayers"]


class FastRCNNOutputLayers(roi_heads.FastRCNNOutputLayers):
    """Detectron2's box predictor; its losses search nothing and wait for nothing."""

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Compute the losses of sampled proposals.

        Args:
            predictions: what ``forward`` gave for them.
            proposals: for each image ``proposal_boxes``, ``gt_classes`` and, where there is any
                object, ``gt_boxes``.

        Returns:
            ``loss_cls`` and ``loss_box_reg``, both divided by the number of regions.

        Raises:
            ValueError: the proposals' coordinates carry gradients.
        """
        logits, deltas = predictions
        gt_classes = torch.cat(
            [torch.zeros(0, dtype=torch.int64, device=logits.device)]
            + [p.gt_classes for p in proposals]
        )
        none = logits.new_zeros((0, 4))
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals] or [none])
        # An image without objects has background only, whose boxes are never looked at.
        names = ["gt_boxes" if p.has("gt_boxes") else "proposal_boxes" for p in proposals]
        targets = [p.get(name).tensor for p, name in zip(proposals, names, strict=True)]
        gt_boxes = torch.cat(targets or [none])
        if boxes.requires_grad:
            raise ValueError("proposals: expected boxes without gradient; detach them")
        _log_statistics(logits.detach(), gt_classes)

        if self.use_sigmoid_ce:
            loss_cls = self.sigmoid_cross_entropy_loss(logits, gt_classes)
        else:
            gt_classes_or_empty = gt_classes.clamp(min=-1)
            total = F.cross_entropy(logits, gt_classes_or_empty, ignore_index=-1, reduction="sum")
            loss_cls = total / _number(gt_classes)
        losses = {
            "loss_cls": loss_cls,
            "loss_box_reg": self.box_reg_loss(boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def sigmoid_cross_entropy_loss(self, pred_class_logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Sum the binary cross entropy over classes, and average over regions.

        Args:
            pred_class_logits: ``(R, K + 1)``; the background column is not used.
            gt_classes: ``(R,)`` in ``[0, K]``, or below 0.

        Returns:
            A scalar.
        """
        num_classes = pred_class_logits.shape[1] - 1
        counts = gt_classes >= 0
        column = torch.where(counts, gt_classes, num_classes)
        targets = torch.zeros_like(pred_class_logits).scatter_(1, column[:, None], 1)
        loss = F.binary_cross_entropy_with_logits(
            pred_class_logits[:, :-1], targets[:, :-1], reduction="none"
        )
        if self.use_fed_loss:
            loss = loss * self.counted_classes(column, counts).to(loss.dtype)
        return loss.where(counts[:, None], 0.0).sum() / _number(gt_classes)

    def counted_classes(self, gt_classes: Tensor, counts: Tensor) -> Tensor:
        """Choose the classes that the federated loss counts.

        A subclass that has its own ``get_fed_loss_classes``, as with Detectron2, keeps it.

        Args:
            gt_classes: ``(R,)`` in ``[0, K]``.
            counts: ``(R,)`` bool, which regions count.

        Returns:
            ``(K,)`` bool.
        """
        wanted, weights = self.fed_loss_num_classes, self.fed_loss_cls_weights
        original = roi_heads.FastRCNNOutputLayers.get_fed_loss_classes
        if type(self).get_fed_loss_classes is original:
            return federated_classes(gt_classes, counts, wanted, weights)
        chosen = self.get_fed_loss_classes(gt_classes[counts], wanted, len(weights), weights)
        mask = torch.zeros(len(weights) + 1, dtype=torch.bool, device=gt_classes.device)
        return mask.index_fill(0, chosen, True)[:-1]

    def box_reg_loss(
        self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor
    ) -> Tensor:
        """Compute the box loss of foreground regions, divided by the number of all regions.

        Args:
            proposal_boxes: ``(R, 4)``.
            gt_boxes: ``(R, 4)``.
            pred_deltas: ``(R, K * 4)``, or ``(R, 4)`` for class-agnostic boxes.
            gt_classes: ``(R,)``.

        Returns:
            A scalar.
        """
        foreground = (gt_classes >= 0) & (gt_classes < self.num_classes)
        deltas = pred_deltas
        if pred_deltas.shape[1] != 4:
            own = gt_classes.clamp(0, self.num_classes - 1)[:, None, None].expand(-1, 1, 4)
            deltas = pred_deltas.view(-1, self.num_classes, 4).gather(1, own)[:, 0]
        loss = masked_box_loss(
            deltas,
            proposal_boxes,
            gt_boxes,
            foreground,
            box2box_transform=self.box2box_transform,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return loss / _number(gt_classes)


def _number(gt_classes: Tensor) -> Tensor:
    """Return the number of regions, at least 1."""
    return (gt_classes >= 0).sum().clamp(min=1)


def _log_statistics(logits: Tensor, gt_classes: Tensor) -> None:
    """Log how many regions got the right class, under Detectron2's names."""
    if len(gt_classes) == 0:
        return
    background = logits.shape[1] - 1
    predicted = logits.argmax(dim=1)
    correct = predicted == gt_classes
    foreground = (gt_classes >= 0) & (gt_classes < background)
    missed = foreground & (predicted == background)
    flags = torch.stack([gt_classes >= 0, correct, foreground, foreground & correct, missed])
    log_scalars(flags.sum(dim=1), _statistics)


def _statistics(numbers: Sequence[float]) -> dict[str, float]:
    num_regions, num_correct, num_foreground, num_foreground_correct, num_missed = numbers
    scalars = {"fast_rcnn/cls_accuracy": num_correct / max(num_regions, 1)}
    if num_foreground > 0:
        scalars["fast_rcnn/fg_cls_accuracy"] = num_foreground_correct / num_foreground
        scalars["fast_rcnn/false_negative"] = num_missed / num_foreground
    return scalars

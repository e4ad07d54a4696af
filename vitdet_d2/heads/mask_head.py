# SPDX-License-Identifier: Apache-2.0
"""The mask head with a loss that waits for nothing, and targets that are made on the device.

Shapes: ``B`` regions over all images, ``K`` foreground classes (1 for class-agnostic masks), ``S``
the side of a predicted mask in cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import roi_heads
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from vitdet_d2.heads.late_scalars import log_scalars
from vitdet_d2.heads.sampled_masks import crop_masks

__all__ = ["MaskRCNNConvUpsampleHead", "mask_loss"]


class MaskRCNNConvUpsampleHead(roi_heads.MaskRCNNConvUpsampleHead):
    """Detectron2's mask head; same parameters, losses and masks."""

    def forward(self, x: Tensor, instances: Sequence[Instances]) -> Any:  # type: ignore[override]
        """Compute the loss in training, the masks in inference.

        Args:
            x: ``(B, C, S / 2, S / 2)`` features of regions.
            instances: for each image the regions.

        Returns:
            ``{"loss_mask": ...}`` in training, ``instances`` with ``pred_masks`` in inference.
        """
        if not self.training:
            return super().forward(x, instances)
        loss = mask_loss(self.layers(x), instances, self.vis_period)
        return {"loss_mask": loss * self.loss_weight}


def mask_loss(pred_mask_logits: Tensor, instances: Sequence[Instances], vis_period: int) -> Tensor:
    """Compute the mean binary cross entropy of the masks of the ground-truth classes.

    Args:
        pred_mask_logits: ``(B, K, S, S)``, or ``(B, 1, S, S)`` for class-agnostic masks.
        instances: for each image the ``B`` regions in order, with ``proposal_boxes``,
            ``gt_classes`` and ``gt_masks``.
        vis_period: steps between pictures in the event storage; 0 for none.

    Returns:
        A scalar; 0, with a graph, when there are no regions.

    Raises:
        ValueError: masks that are not square, or no ground-truth masks.
    """
    side = pred_mask_logits.shape[2]
    if pred_mask_logits.shape[3] != side:
        raise ValueError(
            f"pred_mask_logits: expected square masks, got {tuple(pred_mask_logits.shape)}"
        )
    instances = [x for x in instances if len(x) > 0]
    if not instances:
        return pred_mask_logits.sum() * 0
    if not all(x.has("gt_masks") for x in instances):
        raise ValueError(
            "gt_masks: expected masks in the ground truth, got none; "
            "give the data set segmentations, or train a model without a mask head"
        )
    logits = pred_mask_logits[:, 0]
    if pred_mask_logits.shape[1] > 1:
        classes = torch.cat([x.gt_classes for x in instances]).long()
        own = classes[:, None, None, None].expand(-1, 1, side, side)
        logits = pred_mask_logits.gather(1, own)[:, 0]
    masks, boxes = [x.gt_masks for x in instances], [x.proposal_boxes for x in instances]
    with torch.no_grad():
        targets = crop_masks(masks, boxes, side)
        _log_statistics(logits, targets)
        if vis_period > 0:
            _put_pictures(logits, targets, vis_period)
    return F.binary_cross_entropy_with_logits(logits, targets.to(torch.float32))


def _log_statistics(logits: Tensor, targets: Tensor) -> None:
    """Log pixel accuracy and the two kinds of error, under Detectron2's names."""
    num_pixels = targets.numel()

    def scalars(numbers: Sequence[float]) -> dict[str, float]:
        num_wrong, num_missed, num_positive = numbers
        num_false = num_wrong - num_missed
        return {
            "mask_rcnn/accuracy": 1 - num_wrong / max(num_pixels, 1),
            "mask_rcnn/false_positive": num_false / max(num_pixels - num_positive, 1),
            "mask_rcnn/false_negative": num_missed / max(num_positive, 1),
        }

    wrong = (logits > 0) != targets
    log_scalars([wrong.sum(), (wrong & targets).sum(), targets.sum()], scalars)


def _put_pictures(logits: Tensor, targets: Tensor, period: int) -> None:
    storage = get_event_storage()
    if storage.iter % period:
        return
    pairs = torch.cat([logits.sigmoid(), targets.to(logits.dtype)], dim=2)
    for i, pair in enumerate(pairs):
        name = f"mask {i}: prediction (left), ground truth (right)"
        storage.put_image(name, pair.expand(3, -1, -1))

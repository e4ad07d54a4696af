# SPDX-License-Identifier: Apache-2.0
"""From dense box predictions to a short list of proposals, and ground truth among them.

Shapes: ``N`` images, ``L`` feature maps, ``R_l`` predictions on map ``l``. Boxes are XYXY in pixels
of the input image.

Source: Faster R-CNN, arXiv 1506.01497; equals detectron2 ``proposal_generator/proposal_utils.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

__all__ = [
    "add_ground_truth_to_proposals",
    "add_ground_truth_to_proposals_single_image",
    "find_top_rpn_proposals",
]

# Ground truth is an object with probability 1 - 1e-10: certain, and its logit is finite.
_CERTAIN = 1.0 - 1e-10
_CERTAIN_LOGIT = math.log(_CERTAIN) - math.log1p(-_CERTAIN)


def _best_of_each_level(
    proposals: Sequence[Tensor], logits: Sequence[Tensor], topk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the best of every level: boxes ``(N, P, 4)``, scores ``(N, P)``, levels ``(P,)``."""
    boxes, scores, levels = [], [], []
    for level, (level_boxes, level_logits) in enumerate(zip(proposals, logits, strict=True)):
        count = min(level_logits.shape[1], topk)
        best, index = level_logits.topk(count, dim=1)
        scores.append(best)
        boxes.append(level_boxes.gather(1, index[:, :, None].expand(-1, -1, 4)))
        levels.append(index.new_full((count,), level))
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1), torch.cat(levels)


def find_top_rpn_proposals(
    proposals: Sequence[Tensor],
    pred_objectness_logits: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Select the proposals of every image: best of each level, clipped, without duplicates.

    Args:
        proposals: ``(N, R_l, 4)`` boxes of each level.
        pred_objectness_logits: ``(N, R_l)`` of each level.
        image_sizes: ``(height, width)`` of each image, to which boxes are clipped.
        nms_thresh: IoU above which the worse of two boxes of one level is dropped.
        pre_nms_topk: boxes per level that enter non-maximum suppression.
        post_nms_topk: boxes per image that leave it.
        min_box_size: boxes whose clipped sides are not longer than this are dropped.
        training: whether NaN and infinite predictions are an error; otherwise they are dropped.

    Returns:
        For each image ``proposal_boxes`` and ``objectness_logits``, best first.

    Raises:
        FloatingPointError: a selected prediction is NaN or infinite in training.
    """
    boxes, scores, levels = _best_of_each_level(proposals, pred_objectness_logits, pre_nms_topk)
    usable = boxes.isfinite().all(dim=2) & scores.isfinite()  # (N, P)
    if training and not bool(usable.all()):
        raise FloatingPointError(
            "the RPN predicted boxes or scores with NaN or infinity: training has diverged; "
            "lower the learning rate, or look for broken boxes in the data"
        )
    results = []
    for i, image_size in enumerate(image_sizes):
        # A copy: clipping works in place, and NaN boxes cannot be clipped.
        image_boxes = Boxes(boxes[i].nan_to_num())
        image_boxes.clip(image_size)
        keep = torch.nonzero(usable[i] & image_boxes.nonempty(threshold=min_box_size)).squeeze(1)
        image_boxes, image_scores = image_boxes[keep], scores[i, keep]
        best = batched_nms(image_boxes.tensor, image_scores, levels[keep], nms_thresh)
        best = best[:post_nms_topk]
        result = Instances(image_size)
        result.proposal_boxes = image_boxes[best]
        result.objectness_logits = image_scores[best]
        results.append(result)
    return results


def add_ground_truth_to_proposals(
    gt: Sequence[Instances | Boxes], proposals: Sequence[Instances]
) -> list[Instances]:
    """Append the ground-truth boxes of every image to its proposals.

    Early in training no proposal may come near an object; this gives the heads positive examples
    from the first step.

    Args:
        gt: for each image its ``Boxes``, or instances with ``gt_boxes``.
        proposals: for each image ``proposal_boxes`` and ``objectness_logits``.

    Returns:
        New instances with the fields of ``proposals``.

    Raises:
        ValueError: another number of images.
    """
    if len(gt) != len(proposals):
        raise ValueError(f"gt: expected one for each of {len(proposals)} images, got {len(gt)}")
    return [
        add_ground_truth_to_proposals_single_image(g, p) for g, p in zip(gt, proposals, strict=True)
    ]


def add_ground_truth_to_proposals_single_image(
    gt: Instances | Boxes, proposals: Instances
) -> Instances:
    """Append the ground-truth boxes of one image to its proposals.

    Args:
        gt: ``Boxes``, or instances with ``gt_boxes`` and every further field of ``proposals``.
        proposals: ``proposal_boxes`` and ``objectness_logits``.

    Returns:
        New instances with the fields of ``proposals``.

    Raises:
        ValueError: a further field of ``proposals`` is not in ``gt``.
    """
    gt_boxes = gt if isinstance(gt, Boxes) else gt.gt_boxes
    logits = proposals.objectness_logits
    extra = Instances(
        proposals.image_size,
        proposal_boxes=gt_boxes,
        objectness_logits=logits.new_full((len(gt_boxes),), _CERTAIN_LOGIT),
    )
    for name in proposals.get_fields():
        if extra.has(name):
            continue
        if isinstance(gt, Boxes) or not gt.has(name):
            raise ValueError(f"gt: expected the field {name!r} that the proposals have")
        extra.set(name, gt.get(name))
    return Instances.cat([proposals, extra])

# SPDX-License-Identifier: Apache-2.0
"""From scores and boxes of regions to detections: threshold, suppression per class, best ones.

Shapes: ``R_i`` regions of image ``i``, ``K`` foreground classes. Boxes are XYXY in pixels of the
padded input image.

Source: Fast R-CNN, arXiv 1504.08083; equals detectron2 ``fast_rcnn_inference``, which is in
``roi_heads/fast_rcnn.py`` and can be imported from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

__all__ = ["fast_rcnn_inference", "fast_rcnn_inference_single_image"]


def fast_rcnn_inference(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    image_shapes: Sequence[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Turn the predictions of every image into detections.

    Args:
        boxes: for each image ``(R_i, K * 4)``, or ``(R_i, 4)`` for class-agnostic boxes.
        scores: for each image ``(R_i, K + 1)`` probabilities, background last.
        image_shapes: ``(height, width)`` of each image, to which boxes are clipped.
        score_thresh: detections have a higher score.
        nms_thresh: IoU above which the worse of two boxes of one class is dropped.
        topk_per_image: most detections per image; negative for all.

    Returns:
        For each image ``pred_boxes``, ``scores`` and ``pred_classes``, best first; and for each
        image the region, in ``[0, R_i)``, that every detection comes from.
    """
    results = [
        fast_rcnn_inference_single_image(*image, score_thresh, nms_thresh, topk_per_image)
        for image in zip(boxes, scores, image_shapes, strict=True)
    ]
    return [detections for detections, _ in results], [regions for _, regions in results]


def fast_rcnn_inference_single_image(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, Tensor]:
    """Turn the predictions of one image into detections; NaN and infinite ones are dropped.

    Args:
        boxes: ``(R, K * 4)``, or ``(R, 4)`` for class-agnostic boxes.
        scores: ``(R, K + 1)`` probabilities, background last.
        image_shape: ``(height, width)``.
        score_thresh: detections have a higher score.
        nms_thresh: IoU above which the worse of two boxes of one class is dropped.
        topk_per_image: most detections; negative for all.

    Returns:
        ``pred_boxes``, ``scores`` and ``pred_classes``, best first; and the region of each.
    """
    finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    scores = scores[:, :-1]
    region, label = torch.nonzero((scores > score_thresh) & finite[:, None]).unbind(dim=1)
    per_class = boxes.view(len(boxes), boxes.shape[1] // 4, 4)  # (R, K or 1, 4)
    candidates = Boxes(per_class[region, label if per_class.shape[1] > 1 else 0])
    candidates.clip(image_shape)
    candidate_scores = scores[region, label]

    keep = batched_nms(candidates.tensor, candidate_scores, label, nms_thresh)
    if topk_per_image >= 0:
        keep = keep[:topk_per_image]
    result = Instances(image_shape)
    result.pred_boxes = candidates[keep]
    result.scores = candidate_scores[keep]
    result.pred_classes = label[keep]
    return result, region[keep]

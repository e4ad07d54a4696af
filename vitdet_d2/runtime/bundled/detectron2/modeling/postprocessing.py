# SPDX-License-Identifier: Apache-2.0
"""Predictions in the coordinates of the picture that the user gave.

Source: equals detectron2 ``postprocessing.py``, except that the input is left as it was.
"""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.structures import Boxes, Instances, ROIMasks
from torch import Tensor

__all__ = ["detector_postprocess", "sem_seg_postprocess"]


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale detections from the network's input to the output size, and paste their masks.

    Args:
        results: detections in an image of ``results.image_size``, with ``pred_boxes`` or
            ``proposal_boxes``, and ``pred_masks`` ``(R, 1, S, S)`` probabilities or ``ROIMasks``
            where there are masks.
        output_height: height of the output, in pixels.
        output_width: width of the output, in pixels.
        mask_threshold: probability from which a pixel belongs to the mask.

    Returns:
        New instances with the boxes scaled and clipped, those outside dropped, and ``pred_masks``
        ``(R, output_height, output_width)`` bool.

    Raises:
        ValueError: there are no boxes.
    """
    name = next((f for f in ("pred_boxes", "proposal_boxes") if results.has(f)), None)
    if name is None:
        raise ValueError("results: expected a field pred_boxes or proposal_boxes, got neither")
    input_height, input_width = results.image_size

    scaled = Instances((output_height, output_width), **results.get_fields())
    boxes = Boxes(results.get(name).tensor.clone())
    boxes.scale(output_width / input_width, output_height / input_height)
    boxes.clip(scaled.image_size)
    scaled.set(name, boxes)
    scaled = scaled[boxes.nonempty()]

    if scaled.has("pred_masks"):
        masks = scaled.pred_masks
        roi_masks = masks if isinstance(masks, ROIMasks) else ROIMasks(masks[:, 0])
        scaled.pred_masks = roi_masks.to_bitmasks(
            scaled.pred_boxes, output_height, output_width, mask_threshold
        ).tensor
    return scaled


def sem_seg_postprocess(
    result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> Tensor:
    """Cut the padding off a map of class scores, and resize it to the output size.

    Args:
        result: ``(C, H, W)`` scores of the padded image.
        img_size: ``(height, width)`` of the image without its padding.
        output_height: height of the output, in pixels.
        output_width: width of the output, in pixels.

    Returns:
        ``(C, output_height, output_width)``, bilinear.
    """
    height, width = img_size
    scores = result[None, :, :height, :width]
    size = (output_height, output_width)
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)[0]

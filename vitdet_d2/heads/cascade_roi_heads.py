# SPDX-License-Identifier: Apache-2.0
"""Box heads in a row, whose training step waits for the device once.

Shapes: ``R_i`` regions of image ``i``. Boxes are XYXY in pixels of the padded input image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling import roi_heads
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from vitdet_d2.heads.box_matching import match
from vitdet_d2.heads.fast_rcnn import FastRCNNOutputLayers
from vitdet_d2.heads.late_scalars import log_scalars, name_scope
from vitdet_d2.heads.region_sampling import EMPTY
from vitdet_d2.heads.sampled_proposals import RegionSamplingMixin

__all__ = ["CascadeROIHeads"]


class CascadeROIHeads(RegionSamplingMixin, roi_heads.CascadeROIHeads):
    """Detectron2's cascade; same arguments, parameters and losses.

    Where a stage shrinks a box to nothing, Detectron2 leaves it out of the next stage, and waits
    to know how many are left. Here it stays, marked as an empty place that no loss counts, if all
    predictors are those of `vitdet_d2.heads`, which know the mark.
    """

    def _forward_box(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Instances],
        targets: Sequence[Instances] | None = None,
    ) -> Any:
        """Run every stage: losses in training, detections in inference."""
        marks = all(isinstance(p, FastRCNNOutputLayers) for p in self.box_predictor)
        if not (self.training and marks):
            return super()._forward_box(features, proposals, targets)
        assert targets is not None, "training has ground truth"
        maps = [features[name] for name in self.box_in_features]
        losses: dict[str, Tensor] = {}
        boxes: Sequence[Tensor] = []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._next_proposals(boxes, proposals, stage, targets)
            predictions = self._run_stage(maps, proposals, stage)
            with torch.no_grad():  # no gradient from one stage into the one before
                boxes = predictor.predict_boxes(predictions, proposals)
            with name_scope(f"stage{stage}"):
                stage_losses = predictor.losses(predictions, proposals)
            losses.update({f"{name}_stage{stage}": v for name, v in stage_losses.items()})
        return losses

    @torch.no_grad()
    def _next_proposals(
        self,
        boxes: Sequence[Tensor],
        previous: Sequence[Instances],
        stage: int,
        targets: Sequence[Instances],
    ) -> list[Instances]:
        """Make the boxes of one stage the proposals of the next, labelled by the ground truth.

        Args:
            boxes: for each image ``(R_i, 4)``.
            previous: the proposals that they come from.
            stage: the next one.
            targets: for each image ``gt_boxes`` and ``gt_classes``.

        Returns:
            For each image ``R_i`` of ``proposal_boxes``, ``gt_classes`` (`EMPTY` for a box without
            an area) and ``gt_boxes``.
        """
        proposals, foreground, counted = [], [], []
        for image_boxes, image, truth in zip(boxes, previous, targets, strict=True):
            clipped = _clipped(image_boxes, image.image_size)
            found, label = match(
                self.proposal_matchers[stage], pairwise_iou(truth.gt_boxes, Boxes(clipped))
            )
            if len(truth) > 0:
                classes = truth.gt_classes[found].masked_fill(label == 0, self.num_classes)
                gt_boxes = truth.gt_boxes.tensor[found]
            else:
                classes = torch.full_like(found, self.num_classes)
                gt_boxes = torch.zeros_like(clipped)
            is_empty = ~(clipped[:, 2:] > clipped[:, :2]).all(dim=1)
            result = Instances(image.image_size)
            result.proposal_boxes = Boxes(clipped)
            result.gt_classes = classes.masked_fill(is_empty, EMPTY)
            result.gt_boxes = Boxes(gt_boxes)
            proposals.append(result)
            foreground.append(((label == 1) & ~is_empty).sum())
            counted.append((~is_empty).sum())
        num_images = len(proposals)

        def scalars(numbers: Sequence[float]) -> dict[str, float]:
            num_foreground, num_counted = numbers
            return {
                "roi_head/num_fg_samples": num_foreground / num_images,
                "roi_head/num_bg_samples": (num_counted - num_foreground) / num_images,
            }

        with name_scope(f"stage{stage}"):
            log_scalars([torch.stack(foreground).sum(), torch.stack(counted).sum()], scalars)
        return proposals


def _clipped(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return boxes cut off at the borders of their image; NaN stays."""
    height, width = image_size
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack((x, y), dim=-1).flatten(1)

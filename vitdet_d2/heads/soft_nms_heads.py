# SPDX-License-Identifier: Apache-2.0
"""Soft-NMS at test as an option of a recipe; training is Detectron2's.

For a single box head, name the predictor as ``model.roi_heads.box_predictor._target_``. A cascade
does not ask its predictors for detections: name its heads too, and the last predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor

from vitdet_d2.heads.cascade_roi_heads import CascadeROIHeads
from vitdet_d2.heads.fast_rcnn import FastRCNNOutputLayers
from vitdet_d2.heads.soft_nms import SoftNMSMethod, check_soft_nms, soft_nms

__all__ = ["SoftNMSCascadeROIHeads", "SoftNMSFastRCNNOutputLayers"]

# No IoU is above it.
_NO_SUPPRESSION = 2.0


class SoftNMSFastRCNNOutputLayers(FastRCNNOutputLayers):
    """Detectron2's box predictor, with soft-NMS in place of suppression by a threshold.

    Same parameters, state-dict keys and losses. Scores of detections are the lowered ones.
    """

    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        box2box_transform: Any,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | Mapping[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        get_fed_loss_cls_weights: Callable[[], Tensor] | None = None,
        fed_loss_num_classes: int = 50,
        soft_nms_method: SoftNMSMethod = "linear",
        soft_nms_sigma: float = 0.5,
        soft_nms_min_score: float = 0.001,
    ) -> None:
        """Build the layers; all but the last three are Detectron2's arguments.

        Args:
            input_shape: shape of the features of a region, or their number.
            box2box_transform: the parametrisation of deltas.
            num_classes: foreground classes.
            test_score_thresh: boxes with a higher score take part in the suppression.
            test_nms_thresh: the IoU above which ``linear`` and ``hard`` act.
            test_topk_per_image: most detections per image; negative for all.
            cls_agnostic_bbox_reg: predict one box per region instead of one per class.
            smooth_l1_beta: where ``smooth_l1`` turns from quadratic to linear; 0 is plain L1.
            box_reg_loss_type: ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.
            loss_weight: one factor, or one each for ``loss_cls`` and ``loss_box_reg``.
            use_fed_loss: the federated loss of LVIS.
            use_sigmoid_ce: one binary decision per class instead of a softmax.
            get_fed_loss_cls_weights: gives the weights that the federated loss draws by.
            fed_loss_num_classes: classes that it counts, at least.
            soft_nms_method: see ``soft_nms``.
            soft_nms_sigma: of ``gaussian``.
            soft_nms_min_score: detections have a higher score after it was lowered.

        Raises:
            ValueError: an unknown method, or a sigma or minimum out of range.
        """
        check_soft_nms(soft_nms_method, soft_nms_sigma, soft_nms_min_score)
        super().__init__(
            input_shape,
            box2box_transform=box2box_transform,
            num_classes=num_classes,
            test_score_thresh=test_score_thresh,
            test_nms_thresh=test_nms_thresh,
            test_topk_per_image=test_topk_per_image,
            cls_agnostic_bbox_reg=cls_agnostic_bbox_reg,
            smooth_l1_beta=smooth_l1_beta,
            box_reg_loss_type=box_reg_loss_type,
            loss_weight=loss_weight,
            use_fed_loss=use_fed_loss,
            use_sigmoid_ce=use_sigmoid_ce,
            get_fed_loss_cls_weights=get_fed_loss_cls_weights,
            fed_loss_num_classes=fed_loss_num_classes,
        )
        self.soft_nms_method = soft_nms_method
        self.soft_nms_sigma = soft_nms_sigma
        self.soft_nms_min_score = soft_nms_min_score

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Turn predictions into detections.

        Args:
            predictions: what ``forward`` gave for the proposals.
            proposals: for each image ``proposal_boxes``.

        Returns:
            For each image ``pred_boxes``, ``scores`` and ``pred_classes``, best first; and for
            each image the region that every detection comes from.
        """
        with self.unsuppressed():
            candidates, regions = super().inference(predictions, proposals)
        pairs = [self.suppress(found) for found in candidates]
        kept = [region[keep] for region, (_, keep) in zip(regions, pairs, strict=True)]
        return [found for found, _ in pairs], kept

    def suppress(self, candidates: Instances) -> tuple[Instances, Tensor]:
        """Apply soft-NMS to the boxes of one image.

        Args:
            candidates: ``pred_boxes``, ``scores`` and ``pred_classes``.

        Returns:
            Those that stay, with lowered scores, best first; and which they were.
        """
        keep, scores = soft_nms(
            candidates.pred_boxes.tensor,
            candidates.scores,
            candidates.pred_classes,
            method=self.soft_nms_method,
            iou_threshold=self.test_nms_thresh,
            sigma=self.soft_nms_sigma,
            min_score=self.soft_nms_min_score,
            max_detections=self.test_topk_per_image,
        )
        result = candidates[keep]
        result.scores = scores
        return result, keep

    @contextmanager
    def unsuppressed(self) -> Iterator[None]:
        """Let Detectron2's inference return every box above the score threshold."""
        settings = self.test_nms_thresh, self.test_topk_per_image
        self.test_nms_thresh, self.test_topk_per_image = _NO_SUPPRESSION, -1
        try:
            yield
        finally:
            self.test_nms_thresh, self.test_topk_per_image = settings


class SoftNMSCascadeROIHeads(CascadeROIHeads):
    """Detectron2's cascade, whose last predictor's soft-NMS makes the detections."""

    def _forward_box(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Instances],
        targets: Sequence[Instances] | None = None,
    ) -> Any:
        """Run every stage: losses in training, detections in inference.

        Raises:
            TypeError: the last predictor has no soft-NMS.
        """
        last = self.box_predictor[-1]
        if not isinstance(last, SoftNMSFastRCNNOutputLayers):
            place = f"box_predictors.{len(self.box_predictor) - 1}"
            raise TypeError(
                f"{place}: expected a SoftNMSFastRCNNOutputLayers, got {type(last).__name__}; "
                f"name it in the recipe as model.roi_heads.{place}._target_"
            )
        if self.training:
            return super()._forward_box(features, proposals, targets)
        with last.unsuppressed():
            candidates = super()._forward_box(features, proposals)
        return [last.suppress(found)[0] for found in candidates]

# SPDX-License-Identifier: Apache-2.0
"""Class scores and refined boxes of regions: the output layers, their losses.

Shapes: ``N`` images, ``R`` regions over all of them, ``R_i`` of image ``i``, ``K`` foreground
classes. Class ``K`` is background, class -1 is ignored by the box loss. Boxes are XYXY in pixels
of the padded input image.

Source: Fast R-CNN, arXiv 1504.08083; equals detectron2 ``roi_heads/fast_rcnn.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import (
    Box2BoxTransform,
    BoxTransform,
    box_regression_loss,
    check_box_loss_type,
)
from detectron2.modeling.roi_heads.box_inference import (
    fast_rcnn_inference,
    fast_rcnn_inference_single_image,
)
from detectron2.modeling.roi_heads.federated_loss import (
    check_class_weights,
    choose_federated_classes,
)
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

__all__ = ["FastRCNNOutputLayers", "fast_rcnn_inference", "fast_rcnn_inference_single_image"]


def _log_classification_stats(
    pred_logits: Tensor, gt_classes: Tensor, prefix: str = "fast_rcnn"
) -> None:
    """Log how many regions got the right class, with one wait for the device.

    Args:
        pred_logits: ``(R, K + 1)``, background last.
        gt_classes: ``(R,)``.
        prefix: of the names in the event storage.
    """
    num_regions = len(gt_classes)
    if num_regions == 0:
        return
    background = pred_logits.shape[1] - 1
    predicted = pred_logits.argmax(dim=1)
    correct = predicted == gt_classes
    foreground = (gt_classes >= 0) & (gt_classes < background)
    missed = foreground & (predicted == background)
    num_correct, num_foreground, num_foreground_correct, num_missed = torch.stack(
        [correct.sum(), foreground.sum(), (foreground & correct).sum(), missed.sum()]
    ).tolist()

    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/cls_accuracy", num_correct / num_regions)
    if num_foreground > 0:
        storage.put_scalar(f"{prefix}/fg_cls_accuracy", num_foreground_correct / num_foreground)
        storage.put_scalar(f"{prefix}/false_negative", num_missed / num_foreground)


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers, one for class scores and one for box deltas, and what is made of them."""

    fed_loss_cls_weights: Tensor

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        box2box_transform: BoxTransform,
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
    ) -> None:
        """Build the layers.

        Args:
            input_shape: shape of the features of a region, or their number.
            box2box_transform: the parametrisation of deltas.
            num_classes: foreground classes.
            test_score_thresh: detections have a higher score.
            test_nms_thresh: IoU above which the worse of two boxes of one class is dropped.
            test_topk_per_image: most detections per image; negative for all.
            cls_agnostic_bbox_reg: predict one box per region instead of one per class.
            smooth_l1_beta: where ``smooth_l1`` turns from quadratic to linear; 0 is plain L1.
            box_reg_loss_type: ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.
            loss_weight: one factor, or one each for ``loss_cls`` and ``loss_box_reg``.
            use_fed_loss: count in the class loss only the classes of the batch and a random
                choice of others (LVIS).
            use_sigmoid_ce: one binary decision per class instead of a softmax.
            get_fed_loss_cls_weights: gives the ``(num_classes,)`` weights of that choice.
            fed_loss_num_classes: classes that are counted, at least.

        Raises:
            ValueError: an unknown box loss, or a federated loss without what it needs.
        """
        super().__init__()
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        num_inputs = math.prod(
            side or 1 for side in (input_shape.channels, input_shape.width, input_shape.height)
        )
        num_box_classes = 1 if cls_agnostic_bbox_reg else num_classes
        self.num_classes = num_classes
        self.cls_score = nn.Linear(num_inputs, num_classes + 1)
        self.bbox_pred = nn.Linear(num_inputs, num_box_classes * len(box2box_transform.weights))
        # Small weights: training starts from even scores and unmoved boxes.
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

        self.box2box_transform = box2box_transform
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = check_box_loss_type(box_reg_loss_type)
        if not isinstance(loss_weight, Mapping):
            loss_weight = dict.fromkeys(("loss_cls", "loss_box_reg"), loss_weight)
        self.loss_weight = loss_weight
        self.use_fed_loss = use_fed_loss
        self.use_sigmoid_ce = use_sigmoid_ce
        self.fed_loss_num_classes = fed_loss_num_classes
        if use_fed_loss:
            self._init_fed_loss(get_fed_loss_cls_weights)

    def _init_fed_loss(self, get_weights: Callable[[], Tensor] | None) -> None:
        if not self.use_sigmoid_ce or get_weights is None:
            raise ValueError(
                "use_fed_loss: expected use_sigmoid_ce=True and get_fed_loss_cls_weights with it"
            )
        weights = check_class_weights(get_weights(), self.num_classes)
        self.register_buffer("fed_loss_cls_weights", weights)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the arguments that ``MODEL.ROI_BOX_HEAD`` and ``MODEL.ROI_HEADS`` hold.

        Args:
            cfg: the yacs configuration.
            input_shape: shape of the features of a region.
        """
        node, common = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS

        def class_weights() -> Tensor:
            # Imported here: only this loss needs to know the data set.
            from detectron2.data.detection_utils import get_fed_loss_cls_weights

            return get_fed_loss_cls_weights(cfg.DATASETS.TRAIN, node.FED_LOSS_FREQ_WEIGHT_POWER)

        return {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS),
            "num_classes": common.NUM_CLASSES,
            "test_score_thresh": common.SCORE_THRESH_TEST,
            "test_nms_thresh": common.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "cls_agnostic_bbox_reg": node.CLS_AGNOSTIC_BBOX_REG,
            "smooth_l1_beta": node.SMOOTH_L1_BETA,
            "box_reg_loss_type": node.BBOX_REG_LOSS_TYPE,
            "loss_weight": {"loss_box_reg": node.BBOX_REG_LOSS_WEIGHT},
            "use_fed_loss": node.USE_FED_LOSS,
            "use_sigmoid_ce": node.USE_SIGMOID_CE,
            "get_fed_loss_cls_weights": class_weights,
            "fed_loss_num_classes": node.FED_LOSS_NUM_CLASSES,
        }

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            x: ``(R, ...)`` features of regions.

        Returns:
            ``(R, K + 1)`` logits, background last, and ``(R, K * 4)`` or ``(R, 4)`` deltas.
        """
        x = x.flatten(start_dim=1)
        return self.cls_score(x), self.bbox_pred(x)

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
        if proposals:
            gt_classes = torch.cat([p.gt_classes for p in proposals])
            boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
            # An image without objects has background only, whose boxes are never looked at.
            names = ["gt_boxes" if p.has("gt_boxes") else "proposal_boxes" for p in proposals]
            targets = [p.get(name).tensor for p, name in zip(proposals, names, strict=True)]
            gt_boxes = torch.cat(targets)
        else:
            gt_classes = torch.empty(0, dtype=torch.int64, device=logits.device)
            boxes = gt_boxes = logits.new_zeros((0, 4))
        if boxes.requires_grad:
            raise ValueError("proposals: expected boxes without gradient; detach them")
        _log_classification_stats(logits.detach(), gt_classes)

        if self.use_sigmoid_ce:
            loss_cls = self.sigmoid_cross_entropy_loss(logits, gt_classes)
        elif len(logits) == 0:
            loss_cls = logits.sum() * 0.0  # the mean of nothing would be NaN
        else:
            loss_cls = F.cross_entropy(logits, gt_classes)
        losses = {
            "loss_cls": loss_cls,
            "loss_box_reg": self.box_reg_loss(boxes, gt_boxes, deltas, gt_classes),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def get_fed_loss_classes(
        self, gt_classes: Tensor, num_fed_loss_classes: int, num_classes: int, weight: Tensor
    ) -> Tensor:
        """Choose the classes that count; a subclass may choose others.

        Args:
            gt_classes: ``(R,)`` in ``[0, num_classes]``, background included.
            num_fed_loss_classes: classes to return, at least.
            num_classes: foreground classes.
            weight: ``(num_classes,)`` chances of the classes that are absent.

        Returns:
            See ``choose_federated_classes``.
        """
        return choose_federated_classes(gt_classes, num_fed_loss_classes, weight[:num_classes])

    def sigmoid_cross_entropy_loss(self, pred_class_logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Sum the binary cross entropy over classes, and average over regions.

        Args:
            pred_class_logits: ``(R, K + 1)``; the background column is not used.
            gt_classes: ``(R,)`` in ``[0, K]``; -1 counts as background.

        Returns:
            A scalar.
        """
        if pred_class_logits.numel() == 0:
            return pred_class_logits.sum() * 0.0
        num_regions, num_columns = pred_class_logits.shape
        gt_classes = gt_classes % num_columns
        targets = torch.zeros_like(pred_class_logits).scatter_(1, gt_classes[:, None], 1)
        loss = F.binary_cross_entropy_with_logits(
            pred_class_logits[:, :-1], targets[:, :-1], reduction="none"
        )
        if self.use_fed_loss:
            counted = self.get_fed_loss_classes(
                gt_classes, self.fed_loss_num_classes, num_columns - 1, self.fed_loss_cls_weights
            )
            mask = torch.zeros(num_columns, dtype=loss.dtype, device=loss.device)
            loss = loss * mask.index_fill(0, counted, 1)[:-1]
        return loss.sum() / num_regions

    def box_reg_loss(
        self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor
    ) -> Tensor:
        """Compute the box loss of foreground regions, divided by the number of all regions.

        By that divisor, a foreground region weighs the same in every batch, however many others
        there are.

        Args:
            proposal_boxes: ``(R, 4)``.
            gt_boxes: ``(R, 4)``.
            pred_deltas: ``(R, K * 4)``, or ``(R, 4)`` for class-agnostic boxes.
            gt_classes: ``(R,)``.

        Returns:
            A scalar.
        """
        foreground = torch.nonzero((gt_classes >= 0) & (gt_classes < self.num_classes)).squeeze(1)
        if pred_deltas.shape[1] == 4:
            deltas = pred_deltas[foreground]
        else:
            deltas = pred_deltas.view(-1, self.num_classes, 4)[foreground, gt_classes[foreground]]
        loss = box_regression_loss(
            deltas,
            proposal_boxes[foreground],
            gt_boxes[foreground],
            box2box_transform=self.box2box_transform,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return loss / max(len(gt_classes), 1)

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Turn predictions into detections.

        Args:
            predictions: what ``forward`` gave for the proposals.
            proposals: for each image ``proposal_boxes``.

        Returns:
            See ``fast_rcnn_inference``.
        """
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [p.image_size for p in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def predict_boxes(
        self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
    ) -> Sequence[Tensor]:
        """Apply the predicted deltas to the proposals.

        Args:
            predictions: what ``forward`` gave for the proposals.
            proposals: for each image ``proposal_boxes``.

        Returns:
            For each image ``(R_i, K * 4)`` or ``(R_i, 4)`` boxes.
        """
        if not proposals:
            return []
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        predicted = self.box2box_transform.apply_deltas(predictions[1], boxes)
        return predicted.split([len(p) for p in proposals])

    def predict_boxes_for_gt_classes(
        self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
    ) -> Sequence[Tensor]:
        """Apply the deltas that were predicted for the ground-truth class of each proposal.

        Args:
            predictions: what ``forward`` gave for the proposals.
            proposals: for each image ``proposal_boxes`` and ``gt_classes``; where the class is
                background or ignored, the box of some class is given.

        Returns:
            For each image ``(R_i, 4)`` boxes.
        """
        results = []
        for boxes, p in zip(self.predict_boxes(predictions, proposals), proposals, strict=True):
            per_class = boxes.view(len(p), boxes.shape[1] // 4, 4)
            label = p.gt_classes.clamp(0, per_class.shape[1] - 1)
            results.append(per_class[torch.arange(len(p), device=label.device), label])
        return results

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: Sequence[Instances]
    ) -> Sequence[Tensor]:
        """Turn logits into probabilities.

        Args:
            predictions: what ``forward`` gave for the proposals.
            proposals: only their number per image matters.

        Returns:
            For each image ``(R_i, K + 1)``, background last.
        """
        logits = predictions[0]
        probs = logits.sigmoid() if self.use_sigmoid_ce else logits.softmax(dim=-1)
        return probs.split([len(p) for p in proposals])

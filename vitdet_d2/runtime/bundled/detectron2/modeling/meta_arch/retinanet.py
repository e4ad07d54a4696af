# SPDX-License-Identifier: Apache-2.0
"""RetinaNet: from feature maps to detections in one stage, with a loss that looks at hard anchors.

Shapes: ``N`` images, ``A`` anchors per location, ``K`` classes, ``R_l = H * W * A`` of map ``l``,
``R`` of an image over all maps. Boxes are XYXY in pixels of the padded input image.
Labels of anchors: a class in ``[0, K)``, ``K`` background, -1 ignored.

Source: RetinaNet, arXiv 1708.02002; equals detectron2 ``meta_arch/retinanet.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, batched_nms
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.modeling.backbone import Backbone, build_backbone
from detectron2.modeling.box_regression import (
    Box2BoxTransform,
    BoxTransform,
    box_regression_loss,
    check_box_loss_type,
)
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector, permute_to_N_HWA_K
from detectron2.modeling.meta_arch.dense_losses import label_anchors, summed_focal_loss
from detectron2.modeling.meta_arch.dense_tower import dense_tower
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["RetinaNet", "RetinaNetHead", "permute_to_N_HWA_K"]

__getattr__ = absent_attribute(__name__)

_WEIGHT_DEVIATION = 0.01
# Positive anchors of a batch, before any was seen.
_INITIAL_NORMALIZER = 100.0


@META_ARCH_REGISTRY.register()
class RetinaNet(DenseDetector):
    """Classify and deform every anchor of a feature pyramid."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: Sequence[str],
        anchor_generator: nn.Module,
        box2box_transform: BoxTransform,
        anchor_matcher: Matcher,
        num_classes: int,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        vis_period: int = 0,
        input_format: str = "BGR",
    ) -> None:
        """Put the parts together.

        Args:
            backbone: turns images into feature maps.
            head: turns a list of maps into logits and deltas, see ``RetinaNetHead``.
            head_in_features: names of the maps that the head gets, one per stride of the anchors.
            anchor_generator: makes the anchors of a list of maps.
            box2box_transform: the parametrisation of deltas.
            anchor_matcher: labels anchors by their IoU with ground truth.
            num_classes: ``K``, as in the head.
            focal_loss_alpha: weight of the class that an anchor has, against that of those it has
                not, ``1 - alpha``; -1 weighs them the same.
            focal_loss_gamma: exponent that takes weight from what is classified well already.
            smooth_l1_beta: where ``smooth_l1`` turns from quadratic to linear; 0 is plain L1.
            box_reg_loss_type: ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.
            test_score_thresh: detections have a higher score.
            test_topk_candidates: boxes of each map that enter non-maximum suppression.
            test_nms_thresh: IoU above which the worse of two boxes of one class is dropped.
            max_detections_per_image: most detections that an image has.
            pixel_mean: mean of each channel, in the units of the images.
            pixel_std: deviation of each channel.
            vis_period: steps between pictures in the event storage; 0 for none.
            input_format: what the channels are, for example ``RGB``.

        Raises:
            ValueError: mean and deviation do not fit, the backbone has no such map, the head is for
                other classes or anchors, or an unknown ``box_reg_loss_type``.
        """
        num_anchors: Any = getattr(anchor_generator, "num_anchors", None)
        if isinstance(head, RetinaNetHead) and num_anchors is not None:
            head.check(num_classes, num_anchors)
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        self.num_classes = num_classes
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.anchor_matcher = anchor_matcher
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = check_box_loss_type(box_reg_loss_type)
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.vis_period = vis_period
        self.input_format = input_format

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that ``MODEL.RETINANET`` holds, with the parts built.

        Args:
            cfg: the yacs configuration.

        Raises:
            ValueError: the backbone has no such map.
        """
        node = cfg.MODEL.RETINANET
        backbone = build_backbone(cfg)
        available = backbone.output_shape()
        missing = [name for name in node.IN_FEATURES if name not in available]
        if missing:
            raise ValueError(
                f"MODEL.RETINANET.IN_FEATURES: expected names out of {', '.join(available)}, got "
                f"{list(node.IN_FEATURES)}"
            )
        shapes = [available[name] for name in node.IN_FEATURES]
        return {
            "backbone": backbone,
            "head": RetinaNetHead(cfg, shapes),
            "head_in_features": node.IN_FEATURES,
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "box2box_transform": Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS),
            "anchor_matcher": Matcher(
                node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=True
            ),
            "num_classes": node.NUM_CLASSES,
            "focal_loss_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": node.FOCAL_LOSS_GAMMA,
            "smooth_l1_beta": node.SMOOTH_L1_LOSS_BETA,
            "box_reg_loss_type": node.BBOX_REG_LOSS_TYPE,
            "test_score_thresh": node.SCORE_THRESH_TEST,
            "test_topk_candidates": node.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": node.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "vis_period": cfg.VIS_PERIOD,
            "input_format": cfg.INPUT.FORMAT,
        }

    def forward_training(
        self,
        images: ImageList,  # noqa: ARG002  (Detectron2's signature)
        features: Sequence[Tensor],
        predictions: Sequence[Sequence[Tensor]],
        gt_instances: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """Compute the losses of all anchors.

        Args:
            images: the batch.
            features: ``(N, C, H, W)`` maps.
            predictions: logits and deltas of each map.
            gt_instances: for each image ``gt_boxes`` and ``gt_classes``.

        Returns:
            See ``losses``.
        """
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, gt_labels, deltas, gt_boxes)

    @torch.no_grad()
    def label_anchors(
        self, anchors: Sequence[Boxes], gt_instances: Sequence[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Give every anchor of every image a label and a box.

        Args:
            anchors: anchors of each feature map.
            gt_instances: for each image ``gt_boxes`` and ``gt_classes``.

        Returns:
            For each image ``(R,)`` labels, and ``(R, 4)`` boxes that are meaningful where the
            label is a class.
        """
        return label_anchors(anchors, gt_instances, self.anchor_matcher, self.num_classes)

    def losses(
        self,
        anchors: Sequence[Boxes],
        pred_logits: Sequence[Tensor],
        gt_labels: Sequence[Tensor],
        pred_anchor_deltas: Sequence[Tensor],
        gt_boxes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Compute the losses, both divided by a running average of the count of positive anchors.

        Args:
            anchors: anchors of each feature map.
            pred_logits: ``(N, R_l, K)`` for each map.
            gt_labels: ``(R,)`` for each image.
            pred_anchor_deltas: ``(N, R_l, 4)`` for each map.
            gt_boxes: ``(R, 4)`` for each image.

        Returns:
            ``loss_cls`` and ``loss_box_reg``.
        """
        labels = torch.stack(list(gt_labels))  # (N, R)
        # The one place that waits for an accelerator: the positive anchors, image by image.
        image, anchor = ((labels >= 0) & (labels != self.num_classes)).nonzero(as_tuple=True)
        get_event_storage().put_scalar("num_pos_anchors", len(anchor) / len(labels))
        normalizer = self._ema_update("loss_normalizer", max(len(anchor), 1), _INITIAL_NORMALIZER)
        loss_box = box_regression_loss(
            torch.cat(list(pred_anchor_deltas), dim=1)[image, anchor],
            Boxes.cat(list(anchors)).tensor[anchor],
            torch.stack(list(gt_boxes))[image, anchor],
            box2box_transform=self.box2box_transform,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        loss_cls = summed_focal_loss(
            pred_logits, labels, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma
        )
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box / normalizer}

    def forward_inference(
        self,
        images: ImageList,
        features: Sequence[Tensor],
        predictions: Sequence[Sequence[Tensor]],
    ) -> list[Instances]:
        """Detect.

        Args:
            images: the batch; only its sizes matter.
            features: ``(N, C, H, W)`` maps; only their shapes matter.
            predictions: logits and deltas of each map.

        Returns:
            For each image ``pred_boxes``, ``scores`` and ``pred_classes``, best first. Boxes are
            not clipped to the image.
        """
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        return [
            self.inference_single_image(
                anchors, [x[i].sigmoid() for x in logits], [x[i] for x in deltas], image_size
            )
            for i, image_size in enumerate(images.image_sizes)
        ]

    def inference_single_image(
        self,
        anchors: Sequence[Boxes],
        box_cls: Sequence[Tensor],
        box_delta: Sequence[Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """Detect in one image: best of each map, without duplicates.

        Args:
            anchors: anchors of each feature map.
            box_cls: ``(R_l, K)`` scores for each map.
            box_delta: ``(R_l, 4)`` for each map.
            image_size: ``(height, width)``.

        Returns:
            As ``forward_inference``, of one image.
        """
        found = self._decode_multi_level_predictions(
            anchors,
            box_cls,
            box_delta,
            self.test_score_thresh,
            self.test_topk_candidates,
            image_size,
        )
        keep = batched_nms(
            found.pred_boxes.tensor, found.scores, found.pred_classes, self.test_nms_thresh
        )
        return found[keep[: self.max_detections_per_image]]


class RetinaNetHead(nn.Module):
    """Two equal towers of 3x3 convolutions, one for classes and one for boxes, on every map."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        num_classes: int,
        num_anchors: int,
        conv_dims: Sequence[int],
        norm: str | Callable[[int], nn.Module] = "",
        prior_prob: float = 0.01,
    ) -> None:
        """Build the head; weights are normal with deviation 0.01, biases 0 but for the classes'.

        Args:
            input_shape: of each feature map; all have the same channels.
            num_classes: ``K``.
            num_anchors: ``A``.
            conv_dims: output channels of the hidden convolutions of each tower.
            norm: after each hidden convolution, see ``get_norm``; "" for none. With ``BN`` and
                ``SyncBN`` every map has statistics of its own.
            prior_prob: score of every class and anchor at the beginning. A higher one would let
                the many anchors without an object swamp the first steps.

        Raises:
            ValueError: no map, maps that differ in channels, or no hidden convolution.
        """
        super().__init__()
        channels = {shape.channels or 0 for shape in input_shape}
        if len(channels) != 1 or 0 in channels:
            raise ValueError(
                f"input_shape: expected maps with the same channels, got {sorted(channels)}"
            )
        if len(conv_dims) == 0 or min(conv_dims) <= 0:
            raise ValueError(f"conv_dims: expected one or more numbers > 0, got {list(conv_dims)}")
        if not 0.0 < prior_prob < 1.0:
            raise ValueError(f"prior_prob: expected a probability in (0, 1), got {prior_prob}")
        self._num_features = len(input_shape)
        self._num_classes, self._num_anchors = num_classes, num_anchors
        widths = [channels.pop(), *conv_dims]
        self.cls_subnet = dense_tower(widths, norm, self._num_features)
        self.bbox_subnet = dense_tower(widths, norm, self._num_features)
        self.cls_score = nn.Conv2d(widths[-1], num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(widths[-1], num_anchors * 4, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=_WEIGHT_DEVIATION)
                assert layer.bias is not None, "the convolutions of the head have biases"
                nn.init.zeros_(layer.bias)
        assert self.cls_score.bias is not None, "the convolutions of the head have biases"
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        """Return the arguments that ``MODEL.RETINANET`` and the anchors hold.

        Args:
            cfg: the yacs configuration.
            input_shape: of each feature map.

        Raises:
            ValueError: the maps differ in anchors per location: one head serves them all.
        """
        node = cfg.MODEL.RETINANET
        counts = set(build_anchor_generator(cfg, input_shape).num_cell_anchors)
        if len(counts) != 1:
            raise ValueError(
                "MODEL.ANCHOR_GENERATOR: expected as many anchors per location on every map of "
                f"MODEL.RETINANET.IN_FEATURES, got {sorted(counts)}"
            )
        return {
            "input_shape": input_shape,
            "num_classes": node.NUM_CLASSES,
            "num_anchors": counts.pop(),
            "conv_dims": [input_shape[0].channels] * node.NUM_CONVS,
            "norm": node.NORM,
            "prior_prob": node.PRIOR_PROB,
        }

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict classes and boxes.

        Args:
            features: ``(N, C, H, W)`` maps, as many as ``input_shape`` has.

        Returns:
            For each map ``(N, A * K, H, W)`` logits and ``(N, A * 4, H, W)`` deltas.

        Raises:
            ValueError: another number of maps.
        """
        if len(features) != self._num_features:
            raise ValueError(f"features: expected {self._num_features} maps, got {len(features)}")
        logits = [self.cls_score(self.cls_subnet(feature)) for feature in features]
        deltas = [self.bbox_pred(self.bbox_subnet(feature)) for feature in features]
        return logits, deltas

    def check(self, num_classes: int, num_anchors: Sequence[int]) -> None:
        """Refuse a detector that would read the predictions in another order.

        Args:
            num_classes: of the detector.
            num_anchors: of its anchors, per location, for each map.

        Raises:
            ValueError: the head is for others.
        """
        wanted = [self._num_anchors] * self._num_features
        if num_classes != self._num_classes or list(num_anchors) != wanted:
            raise ValueError(
                f"head: expected num_classes={num_classes} and num_anchors for the anchors "
                f"{list(num_anchors)} of the maps, got num_classes={self._num_classes} and "
                f"num_anchors={self._num_anchors} on {self._num_features} maps"
            )

# SPDX-License-Identifier: Apache-2.0
"""Region proposal network: which anchors hold an object, and how to deform them into its box.

Shapes: ``N`` images, ``L`` feature maps, ``A`` anchors per location, ``R = sum(H * W * A)`` anchors
of an image over all maps. Boxes are XYXY in pixels of the padded input image.
Labels of anchors: 1 object, 0 background, -1 ignored.

Source: Faster R-CNN, arXiv 1506.01497, section 3; equals detectron2 ``proposal_generator/rpn.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.modeling.box_regression import (
    Box2BoxTransform,
    BoxTransform,
    box_regression_loss,
    check_box_loss_type,
)
from detectron2.modeling.by_name import part_by_name
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry
from torch import Tensor, nn

__all__ = ["RPN", "RPN_HEAD_REGISTRY", "StandardRPNHead", "build_rpn_head"]

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
RPN_HEAD_REGISTRY.__doc__ = """Heads of the RPN by name: ``obj(cfg, input_shape)``."""


def build_rpn_head(cfg: Any, input_shape: Sequence[ShapeSpec]) -> nn.Module:
    """Build the head ``MODEL.RPN.HEAD_NAME``.

    Args:
        cfg: the yacs configuration.
        input_shape: of each feature map.

    Raises:
        KeyError: no head has the name.
    """
    build = part_by_name(RPN_HEAD_REGISTRY, cfg.MODEL.RPN.HEAD_NAME, "MODEL.RPN.HEAD_NAME")
    return build(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions, then one 1x1 convolution for objectness and one for box deltas."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int,
        box_dim: int = 4,
        conv_dims: Sequence[int] = (-1,),
    ) -> None:
        """Build the head; all weights are normal with deviation 0.01, all biases 0.

        Args:
            in_channels: channels of every feature map.
            num_anchors: anchors per location.
            box_dim: numbers per box.
            conv_dims: output channels of each 3x3 convolution; -1 keeps the number of channels.

        Raises:
            ValueError: no convolution, or one without channels.
        """
        super().__init__()
        widths = [in_channels]
        for dim in conv_dims:
            widths.append(widths[-1] if dim == -1 else dim)
        if len(widths) == 1 or min(widths) <= 0:
            raise ValueError(
                f"conv_dims: expected one or more numbers > 0 (or -1), got {list(conv_dims)}"
            )
        convs = [
            Conv2d(before, after, kernel_size=3, padding=1, activation=nn.ReLU())
            for before, after in pairwise(widths)
        ]
        if len(convs) == 1:  # the key of a single convolution has no number
            self.conv: nn.Module = convs[0]
        else:
            self.conv = nn.Sequential()
            for i, conv in enumerate(convs):
                self.conv.add_module(f"conv{i}", conv)
        self.objectness_logits = nn.Conv2d(widths[-1], num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(widths[-1], num_anchors * box_dim, kernel_size=1)
        for layer in [*convs, self.objectness_logits, self.anchor_deltas]:
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None, "the layers of the RPN head have biases"
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Sequence[ShapeSpec]) -> dict[str, Any]:
        """Return the arguments that ``MODEL.RPN`` and the anchors hold.

        Args:
            cfg: the yacs configuration.
            input_shape: of each feature map.

        Raises:
            ValueError: the maps differ in channels or in anchors per location: one head serves
                them all.
        """
        anchors = build_anchor_generator(cfg, input_shape)
        channels = {shape.channels for shape in input_shape}
        counts = set(anchors.num_anchors)
        if len(channels) != 1 or len(counts) != 1:
            raise ValueError(
                "MODEL.RPN.IN_FEATURES: expected maps with the same channels and anchors per "
                f"location, got {sorted(map(str, channels))} channels, {sorted(counts)} anchors"
            )
        return {
            "in_channels": channels.pop(),
            "num_anchors": counts.pop(),
            "box_dim": anchors.box_dim,
            "conv_dims": cfg.MODEL.RPN.CONV_DIMS,
        }

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict objectness and deltas.

        Args:
            features: ``(N, C, H, W)`` maps.

        Returns:
            For each map ``(N, A, H, W)`` logits and ``(N, A * box_dim, H, W)`` deltas.
        """
        hidden = [self.conv(feature) for feature in features]
        return (
            [self.objectness_logits(h) for h in hidden],
            [self.anchor_deltas(h) for h in hidden],
        )


def _named_weights(loss_weight: float | Mapping[str, float], *names: str) -> dict[str, float]:
    """Give every named loss its weight."""
    if isinstance(loss_weight, Mapping):
        return dict(loss_weight)
    return dict.fromkeys(names, loss_weight)


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Propose boxes that may hold an object, and learn to do so."""

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: int = -1,
        loss_weight: float | Mapping[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ) -> None:
        """Put the parts together.

        Args:
            in_features: names of the feature maps to use, one per stride of the anchors.
            head: predicts logits and deltas from a list of maps.
            anchor_generator: makes the anchors of a list of maps.
            anchor_matcher: labels anchors by their IoU with ground truth.
            box2box_transform: the parametrisation of deltas.
            batch_size_per_image: anchors per image that take part in the loss.
            positive_fraction: at most this share of them is positive.
            pre_nms_topk: boxes per level before suppression, in training and in inference.
            post_nms_topk: boxes per image after suppression, in training and in inference.
            nms_thresh: IoU above which the worse of two proposals is dropped.
            min_box_size: proposals with shorter sides, in pixels, are dropped.
            anchor_boundary_thresh: >= 0 ignores anchors that reach farther than this over the
                border of the image; off by default.
            loss_weight: one factor, or one each for ``loss_rpn_cls`` and ``loss_rpn_loc``.
            box_reg_loss_type: ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.
            smooth_l1_beta: where ``smooth_l1`` turns from quadratic to linear; 0 is plain L1.
        """
        super().__init__()
        self.in_features = in_features
        self.anchor_generator = anchor_generator
        self.rpn_head = head
        self.box2box_transform = box2box_transform
        # Labels, and the share of anchors in the loss.
        self.anchor_matcher = anchor_matcher
        self.anchor_boundary_thresh = anchor_boundary_thresh
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        # Proposals; numbers by the state of ``self.training``.
        states = (True, False)
        self.pre_nms_topk = dict(zip(states, pre_nms_topk, strict=True))
        self.post_nms_topk = dict(zip(states, post_nms_topk, strict=True))
        self.min_box_size = float(min_box_size)
        self.nms_thresh = nms_thresh
        self.loss_weight = _named_weights(loss_weight, "loss_rpn_cls", "loss_rpn_loc")
        self.box_reg_loss_type = check_box_loss_type(box_reg_loss_type)
        self.smooth_l1_beta = smooth_l1_beta

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments that ``MODEL.RPN`` holds, with head and anchors built.

        Args:
            cfg: the yacs configuration.
            input_shape: shapes of the backbone's maps, by name.

        Raises:
            ValueError: a map is missing.
        """
        node = cfg.MODEL.RPN
        missing = [name for name in node.IN_FEATURES if name not in input_shape]
        if missing:
            raise ValueError(
                f"MODEL.RPN.IN_FEATURES: expected names out of {', '.join(input_shape)}, got "
                f"{list(node.IN_FEATURES)}"
            )
        shapes = [input_shape[name] for name in node.IN_FEATURES]
        return {
            "in_features": node.IN_FEATURES,
            "head": build_rpn_head(cfg, shapes),
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "anchor_matcher": Matcher(
                node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=True
            ),
            "box2box_transform": Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS),
            "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": node.POSITIVE_FRACTION,
            "pre_nms_topk": (node.PRE_NMS_TOPK_TRAIN, node.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (node.POST_NMS_TOPK_TRAIN, node.POST_NMS_TOPK_TEST),
            "nms_thresh": node.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "anchor_boundary_thresh": node.BOUNDARY_THRESH,
            "loss_weight": {
                "loss_rpn_cls": node.LOSS_WEIGHT,
                "loss_rpn_loc": node.LOSS_WEIGHT * node.BBOX_REG_LOSS_WEIGHT,
            },
            "box_reg_loss_type": node.BBOX_REG_LOSS_TYPE,
            "smooth_l1_beta": node.SMOOTH_L1_BETA,
        }

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        gt_instances: Sequence[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose boxes, and compute the losses in training.

        Args:
            images: the batch; only its sizes matter.
            features: maps by name.
            gt_instances: for each image ``gt_boxes``; in training only.

        Returns:
            For each image ``proposal_boxes`` and ``objectness_logits``, best first, without
            gradient; and the losses, none in inference.

        Raises:
            ValueError: no ground truth in training.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        raw_logits, raw_deltas = self.rpn_head(maps)
        # (N, A, H, W) -> (N, H * W * A): the order of the anchors
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in raw_logits]
        # (N, A * 4, H, W) -> (N, H * W * A, 4)
        box_dim = self.anchor_generator.box_dim
        deltas = [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, box_dim) for x in raw_deltas]

        losses = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("gt_instances: expected ground truth in training, got None")
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    def _subsample_labels(self, label: Tensor) -> Tensor:
        """Ignore, in place, all anchors but a random sample."""
        positive, negative = subsample_labels(
            label, self.batch_size_per_image, self.positive_fraction, 0
        )
        label.fill_(-1)
        label.index_fill_(0, positive, 1)
        label.index_fill_(0, negative, 0)
        return label

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: Sequence[Boxes], gt_instances: Sequence[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label the anchors of every image, and draw those that take part in the loss.

        Args:
            anchors: anchors of each feature map.
            gt_instances: for each image ``gt_boxes``.

        Returns:
            For each image ``(R,)`` labels, and ``(R, 4)`` boxes that are meaningful where the
            label is 1.
        """
        all_anchors = Boxes.cat(list(anchors))
        labels, boxes = [], []
        for instances in gt_instances:
            matches, label = self.anchor_matcher(pairwise_iou(instances.gt_boxes, all_anchors))
            if self.anchor_boundary_thresh >= 0:
                inside = all_anchors.inside_box(instances.image_size, self.anchor_boundary_thresh)
                label.masked_fill_(~inside, -1)
            labels.append(self._subsample_labels(label))
            if len(instances) == 0:
                boxes.append(torch.zeros_like(all_anchors.tensor))
            else:
                boxes.append(instances.gt_boxes.tensor[matches])
        return labels, boxes

    def losses(
        self,
        anchors: Sequence[Boxes],
        pred_objectness_logits: Sequence[Tensor],
        gt_labels: Sequence[Tensor],
        pred_anchor_deltas: Sequence[Tensor],
        gt_boxes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Compute the losses of the sampled anchors.

        Args:
            anchors: anchors of each feature map.
            pred_objectness_logits: ``(N, H * W * A)`` for each map.
            gt_labels: ``(R,)`` for each image.
            pred_anchor_deltas: ``(N, H * W * A, 4)`` for each map.
            gt_boxes: ``(R, 4)`` for each image.

        Returns:
            ``loss_rpn_cls`` and ``loss_rpn_loc``, both divided by the size of a full sample.
        """
        num_images = len(gt_labels)
        labels = torch.stack(list(gt_labels)).flatten()  # (N * R,)
        sampled = torch.nonzero(labels >= 0).squeeze(1)
        sampled_labels = labels[sampled]
        positive = sampled[sampled_labels == 1]

        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", len(positive) / num_images)
        storage.put_scalar("rpn/num_neg_anchors", (len(sampled) - len(positive)) / num_images)

        logits = torch.cat(list(pred_objectness_logits), dim=1).flatten()
        loss_cls = F.binary_cross_entropy_with_logits(
            logits[sampled], sampled_labels.to(torch.float32), reduction="sum"
        )
        all_anchors = Boxes.cat(list(anchors)).tensor
        loss_loc = box_regression_loss(
            torch.cat(list(pred_anchor_deltas), dim=1).flatten(0, 1)[positive],
            all_anchors[positive % len(all_anchors)],
            torch.cat(list(gt_boxes))[positive],
            box2box_transform=self.box2box_transform,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        # One normaliser for both, whatever was found: the weight of an anchor never changes.
        normalizer = self.batch_size_per_image * num_images
        losses = {"loss_rpn_cls": loss_cls / normalizer, "loss_rpn_loc": loss_loc / normalizer}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: Sequence[Boxes],
        pred_objectness_logits: Sequence[Tensor],
        pred_anchor_deltas: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Decode the predictions and select proposals.

        Args:
            anchors: anchors of each feature map.
            pred_objectness_logits: ``(N, H * W * A)`` for each map.
            pred_anchor_deltas: ``(N, H * W * A, 4)`` for each map.
            image_sizes: ``(height, width)`` of each image.

        Returns:
            See ``find_top_rpn_proposals``. No gradient flows through the coordinates.
        """
        return find_top_rpn_proposals(
            self._decode_proposals(anchors, pred_anchor_deltas),
            pred_objectness_logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )

    def _decode_proposals(
        self, anchors: Sequence[Boxes], pred_anchor_deltas: Sequence[Tensor]
    ) -> list[Tensor]:
        """Deform the anchors: ``(N, H * W * A, 4)`` boxes for each map."""
        boxes = []
        for level_anchors, deltas in zip(anchors, pred_anchor_deltas, strict=True):
            repeated = level_anchors.tensor.repeat(len(deltas), 1)
            decoded = self.box2box_transform.apply_deltas(deltas.flatten(0, 1), repeated)
            boxes.append(decoded.view_as(deltas))
        return boxes

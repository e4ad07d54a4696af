# SPDX-License-Identifier: Apache-2.0
"""Everything that is done per region: sampling, pooling, and the box and mask heads.

Shapes: ``N`` images, ``P`` proposals and ``M`` objects of one image. Class ``num_classes`` is
background, class -1 is ignored. Boxes are XYXY in pixels of the padded input image.

Source: Mask R-CNN, arXiv 1703.06870; equals detectron2 ``roi_heads/roi_heads.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.by_name import part_by_name
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads.box_head import build_box_head
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import build_mask_head
from detectron2.modeling.roi_heads.pooler_of_head import pooler_of_head
from detectron2.modeling.roi_heads.sampled_masks import SampledBitMasks
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry
from torch import Tensor, nn

__all__ = [
    "ROI_HEADS_REGISTRY",
    "ROIHeads",
    "StandardROIHeads",
    "build_roi_heads",
    "select_foreground_proposals",
]

ROI_HEADS_REGISTRY = Registry("ROI_HEADS")
ROI_HEADS_REGISTRY.__doc__ = """RoI heads by name: ``obj(cfg, input_shape)``."""


def build_roi_heads(cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> Any:
    """Build the heads ``MODEL.ROI_HEADS.NAME``.

    Args:
        cfg: the yacs configuration.
        input_shape: shapes of the backbone's maps, by name.

    Raises:
        KeyError: no heads have the name.
    """
    name = cfg.MODEL.ROI_HEADS.NAME
    return part_by_name(ROI_HEADS_REGISTRY, name, "MODEL.ROI_HEADS.NAME")(cfg, input_shape)


def select_foreground_proposals(
    proposals: Sequence[Instances], bg_label: int
) -> tuple[list[Instances], list[Tensor]]:
    """Keep the proposals that stand for an object.

    Args:
        proposals: for each image ``gt_classes``, among other fields.
        bg_label: the class of background.

    Returns:
        For each image the proposals that are neither background nor ignored, and the ``(P,)``
        bool mask of them.
    """
    masks = [(p.gt_classes != -1) & (p.gt_classes != bg_label) for p in proposals]
    chosen = [p[torch.nonzero(mask).squeeze(1)] for p, mask in zip(proposals, masks, strict=True)]
    return chosen, masks


def _of_matched_objects(value: Any, index: Tensor) -> Any:
    """Return ``value[index]``, for bitmaps without the copies."""
    return SampledBitMasks(value, index) if type(value) is BitMasks else value[index]


class ROIHeads(nn.Module):
    """Base of all heads on regions: labels and samples proposals for training."""

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
    ) -> None:
        """Store how to sample.

        Args:
            num_classes: foreground classes.
            batch_size_per_image: proposals per image that take part in the losses.
            positive_fraction: at most this share of them is foreground.
            proposal_matcher: labels proposals by their IoU with ground truth.
            proposal_append_gt: sample from the ground-truth boxes too.
        """
        super().__init__()
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.proposal_matcher = proposal_matcher
        self.proposal_append_gt = proposal_append_gt

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Return the arguments that ``MODEL.ROI_HEADS`` holds.

        Args:
            cfg: the yacs configuration.
        """
        node = cfg.MODEL.ROI_HEADS
        return {
            "num_classes": node.NUM_CLASSES,
            "batch_size_per_image": node.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": node.POSITIVE_FRACTION,
            "proposal_matcher": Matcher(
                node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=False
            ),
            "proposal_append_gt": node.PROPOSAL_APPEND_GT,
        }

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw proposals of one image.

        Args:
            matched_idxs: ``(P,)`` the object that each overlaps most.
            matched_labels: ``(P,)`` 1, 0 or -1.
            gt_classes: ``(M,)``.

        Returns:
            Which proposals were drawn, foreground first, and the class of each.
        """
        if len(gt_classes) > 0:
            classes = gt_classes[matched_idxs]
            classes = classes.masked_fill(matched_labels == 0, self.num_classes)
            classes = classes.masked_fill(matched_labels == -1, -1)
        else:
            classes = torch.full_like(matched_idxs, self.num_classes)
        drawn = torch.cat(
            subsample_labels(
                classes, self.batch_size_per_image, self.positive_fraction, self.num_classes
            )
        )
        return drawn, classes[drawn]

    def _label_and_sample_image(self, proposals: Instances, targets: Instances) -> Instances:
        """Draw proposals of one image, and give them the fields of their objects."""
        matches, labels = self.proposal_matcher(
            pairwise_iou(targets.gt_boxes, proposals.proposal_boxes)
        )
        drawn, classes = self._sample_proposals(matches, labels, targets.gt_classes)
        sampled = proposals[drawn]
        sampled.gt_classes = classes
        if len(targets) > 0:  # without objects there is nothing to take the fields from
            objects = matches[drawn]
            for name, value in targets.get_fields().items():
                if name.startswith("gt_") and not sampled.has(name):
                    sampled.set(name, _of_matched_objects(value, objects))
        return sampled

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: Sequence[Instances], targets: Sequence[Instances]
    ) -> list[Instances]:
        """Label the proposals of every image by the ground truth, and draw a sample.

        Args:
            proposals: for each image ``proposal_boxes`` and ``objectness_logits``.
            targets: for each image ``gt_boxes``, ``gt_classes`` and other ``gt_*`` fields.

        Returns:
            For each image at most ``batch_size_per_image`` proposals, foreground first, with
            ``gt_classes`` and, where the image has objects, each ``gt_*`` field of the best
            overlapping object (meaningless for background). Masks stay shared until their pixels
            are asked for.
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        sampled = [
            self._label_and_sample_image(p, t) for p, t in zip(proposals, targets, strict=True)
        ]
        num_background = torch.stack([(s.gt_classes == self.num_classes).sum() for s in sampled])
        mean_background = int(num_background.sum()) / len(sampled)
        mean_sampled = sum(len(s) for s in sampled) / len(sampled)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", mean_sampled - mean_background)
        storage.put_scalar("roi_head/num_bg_samples", mean_background)
        return sampled

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        proposals: Sequence[Instances],
        targets: Sequence[Instances] | None = None,
    ) -> tuple[Sequence[Instances], dict[str, Tensor]]:
        """Compute losses in training, detections in inference.

        Args:
            images: the batch.
            features: maps by name.
            proposals: for each image ``proposal_boxes`` and ``objectness_logits``.
            targets: for each image its ground truth; in training only.

        Returns:
            In inference the detections of each image; in training the named losses.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward()")


@ROI_HEADS_REGISTRY.register()
class StandardROIHeads(ROIHeads):
    """A box head and, where asked for, a mask head, each with its own crops of the features."""

    box_head: nn.Module
    box_pooler: ROIPooler
    box_predictor: Any
    mask_in_features: Sequence[str]
    mask_pooler: ROIPooler | None
    mask_head: nn.Module

    @configurable
    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: Matcher,
        proposal_append_gt: bool = True,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: ROIPooler | None = None,
        mask_head: nn.Module | None = None,
        keypoint_in_features: Sequence[str] | None = None,
        keypoint_pooler: ROIPooler | None = None,
        keypoint_head: nn.Module | None = None,
        train_on_pred_boxes: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            box_in_features: names of the maps that the box head crops.
            box_pooler: crops for the box head.
            box_head: turns crops into features of regions.
            box_predictor: turns those into predictions, as ``FastRCNNOutputLayers`` does.
            num_classes: foreground classes.
            batch_size_per_image: proposals per image that take part in the losses.
            positive_fraction: at most this share of them is foreground.
            proposal_matcher: labels proposals by their IoU with ground truth.
            proposal_append_gt: sample from the ground-truth boxes too.
            mask_in_features: names of the maps that the mask head crops; None for no masks.
            mask_pooler: crops for the mask head; None gives the head the maps themselves.
            mask_head: turns crops and instances into a loss or masks.
            keypoint_in_features: must be None: keypoints are not bundled.
            keypoint_pooler: must be None.
            keypoint_head: must be None.
            train_on_pred_boxes: train the mask head on predicted boxes instead of proposals.

        Raises:
            ValueError: a mask head is missing, or keypoints are asked for.
        """
        super().__init__(
            num_classes=num_classes,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            proposal_matcher=proposal_matcher,
            proposal_append_gt=proposal_append_gt,
        )
        if not (keypoint_in_features is keypoint_pooler is keypoint_head is None):
            raise ValueError(
                "keypoint_head: expected None, because keypoints are not part of the bundled "
                "runtime; install Detectron2 to use them"
            )
        # Both names are read by other people's heads.
        self.in_features = self.box_in_features = box_in_features
        self.box_pooler = box_pooler
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.mask_on = mask_in_features is not None
        self.keypoint_on = False
        if mask_in_features is not None:
            if mask_head is None:
                raise ValueError("mask_head: expected a head for mask_in_features, got None")
            self.mask_in_features = mask_in_features
            self.mask_pooler = mask_pooler
            self.mask_head = mask_head
        self.train_on_pred_boxes = train_on_pred_boxes

    @classmethod
    def from_config(  # type: ignore[override]
        cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]
    ) -> dict[str, Any]:
        """Return the arguments that ``MODEL.ROI_*`` holds, with poolers and heads built.

        Args:
            cfg: the yacs configuration.
            input_shape: shapes of the backbone's maps, by name.

        Raises:
            ValueError: keypoints are asked for.
        """
        if cfg.MODEL.KEYPOINT_ON:
            raise ValueError(
                "MODEL.KEYPOINT_ON: expected False, because keypoints are not part of the bundled "
                "runtime; install Detectron2 to use them"
            )
        return {
            **super().from_config(cfg),
            "train_on_pred_boxes": cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES,
            # Other people's subclasses override these two.
            **cls._init_box_head(cfg, input_shape),
            **cls._init_mask_head(cfg, input_shape),
        }

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        names = cfg.MODEL.ROI_HEADS.IN_FEATURES
        pooler, shape = pooler_of_head(cfg.MODEL.ROI_BOX_HEAD, names, input_shape)
        head = build_box_head(cfg, shape)
        return {
            "box_in_features": names,
            "box_pooler": pooler,
            "box_head": head,
            "box_predictor": FastRCNNOutputLayers(cfg, head.output_shape),
        }

    @classmethod
    def _init_mask_head(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.MASK_ON:
            return {}
        names, node = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_MASK_HEAD
        pooler: ROIPooler | None = None
        shape: Any = {name: input_shape[name] for name in names}
        if node.POOLER_TYPE:  # empty: the head gets the maps themselves
            pooler, shape = pooler_of_head(node, names, input_shape)
        return {
            "mask_in_features": names,
            "mask_pooler": pooler,
            "mask_head": build_mask_head(cfg, shape),
        }

    def forward(
        self,
        images: ImageList,  # noqa: ARG002  (the interface has it)
        features: Mapping[str, Tensor],
        proposals: Sequence[Instances],
        targets: Sequence[Instances] | None = None,
    ) -> tuple[Sequence[Instances], dict[str, Tensor]]:
        """Compute losses in training, detections in inference.

        Args:
            images: not used.
            features: maps by name.
            proposals: for each image ``proposal_boxes`` and ``objectness_logits``.
            targets: for each image its ground truth; in training only.

        Returns:
            In training the sampled proposals and the losses; in inference the detections, and no
            losses.

        Raises:
            ValueError: no ground truth in training.
        """
        if not self.training:
            detections = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, detections), {}
        if targets is None:
            raise ValueError("targets: expected ground truth in training, got None")
        sampled = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, sampled)
        losses.update(self._forward_mask(features, sampled))
        return sampled, losses

    def forward_with_given_boxes(
        self, features: Mapping[str, Tensor], instances: Sequence[Instances]
    ) -> Sequence[Instances]:
        """Predict everything but the boxes.

        Args:
            features: maps by name.
            instances: for each image ``pred_boxes`` and ``pred_classes``.

        Returns:
            The same instances, with ``pred_masks`` where there is a mask head.

        Raises:
            ValueError: a field is missing, or the module is in training mode.
        """
        if self.training:
            raise ValueError("forward_with_given_boxes works in inference: call eval() first")
        if not all(x.has("pred_boxes") and x.has("pred_classes") for x in instances):
            raise ValueError("instances: expected the fields pred_boxes and pred_classes")
        return self._forward_mask(features, instances)

    def _forward_box(self, features: Mapping[str, Tensor], proposals: Sequence[Instances]) -> Any:
        """Run the box head: losses in training, detections in inference."""
        crops = self.box_pooler(
            [features[name] for name in self.box_in_features], [p.proposal_boxes for p in proposals]
        )
        predictions = self.box_predictor(self.box_head(crops))
        if not self.training:
            return self.box_predictor.inference(predictions, proposals)[0]
        losses = self.box_predictor.losses(predictions, proposals)
        if self.train_on_pred_boxes:
            with torch.no_grad():
                boxes = self.box_predictor.predict_boxes_for_gt_classes(predictions, proposals)
            for p, image_boxes in zip(proposals, boxes, strict=True):
                p.proposal_boxes = Boxes(image_boxes.detach())
        return losses

    def _forward_mask(self, features: Mapping[str, Tensor], instances: Sequence[Instances]) -> Any:
        """Run the mask head: losses in training, instances with masks in inference."""
        if not self.mask_on:
            return {} if self.training else instances
        boxes = "pred_boxes"
        if self.training:
            boxes = "proposal_boxes"
            instances = select_foreground_proposals(instances, self.num_classes)[0]
        maps = {name: features[name] for name in self.mask_in_features}
        if self.mask_pooler is None:
            return self.mask_head(maps, instances)
        crops = self.mask_pooler(list(maps.values()), [image.get(boxes) for image in instances])
        return self.mask_head(crops, instances)

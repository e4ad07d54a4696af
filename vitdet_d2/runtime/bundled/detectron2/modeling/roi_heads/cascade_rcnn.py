# SPDX-License-Identifier: Apache-2.0
"""Box heads in a row: each refines the boxes of the one before, under a stricter matcher.

Shapes: ``N`` images, ``R`` regions over all of them, ``R_i`` of image ``i``, ``K`` foreground
classes. Boxes are XYXY in pixels of the padded input image. A "stage" is one box head with its
predictor; stage 0 takes the proposals.

Source: Cascade R-CNN, arXiv 1712.00726; equals detectron2 ``roi_heads/cascade_rcnn.py``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.box_head import build_box_head
from detectron2.modeling.roi_heads.box_inference import fast_rcnn_inference
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.pooler_of_head import pooler_of_head
from detectron2.modeling.roi_heads.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

__all__ = ["CascadeROIHeads"]


def _stages(cfg: Any) -> list[tuple[float, Sequence[float]]]:
    """Return the IoU threshold and the box weights of each stage.

    Raises:
        ValueError: keys that contradict each other.
    """
    node = cfg.MODEL.ROI_BOX_CASCADE_HEAD
    ious, weights = list(node.IOUS), list(node.BBOX_REG_WEIGHTS)
    first = cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0]
    if len(ious) != len(weights) or not ious:
        raise ValueError(
            "MODEL.ROI_BOX_CASCADE_HEAD: expected one entry per stage in IOUS and in "
            f"BBOX_REG_WEIGHTS, got {len(ious)} and {len(weights)}"
        )
    if ious[0] != first:
        raise ValueError(
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS: expected the first to be "
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS[0] = {first}, got {ious[0]}"
        )
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise ValueError(
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG: expected True for CascadeROIHeads, whose "
            "stages hand on one box per region"
        )
    return list(zip(ious, weights, strict=True))


@ROI_HEADS_REGISTRY.register()
class CascadeROIHeads(StandardROIHeads):
    """Several box heads in a row, all class-agnostic in their boxes, and one mask head.

    State-dict keys: ``box_head.<stage>.*``, ``box_predictor.<stage>.*``, ``mask_head.*``.
    """

    box_head: nn.ModuleList

    @configurable
    def __init__(
        self,
        *,
        box_in_features: Sequence[str],
        box_pooler: ROIPooler,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        proposal_matchers: Sequence[Matcher],
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
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
            box_in_features: names of the maps that the box heads crop.
            box_pooler: crops for the box heads.
            box_heads: one for each stage.
            box_predictors: one for each stage, with class-agnostic boxes.
            proposal_matchers: one for each stage; the first labels proposals, each other the
                boxes that the stage before it predicts.
            num_classes: foreground classes.
            batch_size_per_image: proposals per image that take part in the losses.
            positive_fraction: at most this share of them is foreground; later stages take what
                their matcher gives.
            proposal_append_gt: sample from the ground-truth boxes too.
            mask_in_features: names of the maps that the mask head crops; None for no masks.
            mask_pooler: crops for the mask head; None gives the head the maps themselves.
            mask_head: turns crops and instances into a loss or masks.
            keypoint_in_features: must be None: keypoints are not bundled.
            keypoint_pooler: must be None.
            keypoint_head: must be None.
            train_on_pred_boxes: without effect on a cascade, whose mask head is trained on
                proposals.

        Raises:
            ValueError: not as many heads as predictors and matchers, a mask head is missing, or
                keypoints are asked for.
        """
        counts = (len(box_heads), len(box_predictors), len(proposal_matchers))
        if len(set(counts)) != 1 or not box_heads:
            raise ValueError(
                "box_heads, box_predictors, proposal_matchers: expected one of each per stage, "
                f"got {counts[0]}, {counts[1]} and {counts[2]}"
            )
        if train_on_pred_boxes:
            warnings.warn("train_on_pred_boxes has no effect on CascadeROIHeads", stacklevel=2)
        super().__init__(
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            num_classes=num_classes,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            proposal_matcher=proposal_matchers[0],
            proposal_append_gt=proposal_append_gt,
            mask_in_features=mask_in_features,
            mask_pooler=mask_pooler,
            mask_head=mask_head,
            keypoint_in_features=keypoint_in_features,
            keypoint_pooler=keypoint_pooler,
            keypoint_head=keypoint_head,
            train_on_pred_boxes=train_on_pred_boxes,
        )
        self.num_cascade_stages = len(box_heads)
        self.proposal_matchers = proposal_matchers

    @classmethod
    def from_config(  # type: ignore[override]
        cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]
    ) -> dict[str, Any]:
        """Return the arguments that ``MODEL.ROI_*`` holds, with poolers and heads built.

        Args:
            cfg: the yacs configuration.
            input_shape: shapes of the backbone's maps, by name.
        """
        arguments = super().from_config(cfg, input_shape)
        del arguments["proposal_matcher"]  # each stage has its own
        return arguments

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        names, node = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.ROI_BOX_HEAD
        stages = _stages(cfg)
        pooler, shape = pooler_of_head(node, names, input_shape)
        heads = [build_box_head(cfg, shape) for _ in stages]
        return {
            "box_in_features": names,
            "box_pooler": pooler,
            "box_heads": heads,
            "box_predictors": [
                FastRCNNOutputLayers(
                    cfg, head.output_shape, box2box_transform=Box2BoxTransform(weights=weights)
                )
                for head, (_, weights) in zip(heads, stages, strict=True)
            ],
            "proposal_matchers": [
                Matcher([iou], [0, 1], allow_low_quality_matches=False) for iou, _ in stages
            ],
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
            In training the proposals that were sampled for stage 0, and the losses, those of
            boxes with the suffix ``_stage<i>``; in inference the detections, and no losses.

        Raises:
            ValueError: no ground truth in training.
        """
        if not self.training:
            detections = self._forward_box(features, proposals)
            return self.forward_with_given_boxes(features, detections), {}
        if targets is None:
            raise ValueError("targets: expected ground truth in training, got None")
        sampled = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, sampled, targets)
        losses.update(self._forward_mask(features, sampled))
        return sampled, losses

    def _forward_box(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Instances],
        targets: Sequence[Instances] | None = None,
    ) -> Any:
        """Run every stage: losses in training, detections in inference."""
        maps = [features[name] for name in self.box_in_features]
        image_sizes = [p.image_size for p in proposals]
        losses: dict[str, Tensor] = {}
        scores_of_stages: list[Sequence[Tensor]] = []
        boxes: Sequence[Tensor] = []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
                if targets is not None:
                    proposals = self._match_and_label_boxes(proposals, stage, targets)
            predictions = self._run_stage(maps, proposals, stage)
            with torch.no_grad():  # no gradient from one stage into the one before
                boxes = predictor.predict_boxes(predictions, proposals)
            if self.training:
                with get_event_storage().name_scope(f"stage{stage}"):
                    stage_losses = predictor.losses(predictions, proposals)
                losses.update({f"{name}_stage{stage}": v for name, v in stage_losses.items()})
            else:
                scores_of_stages.append(predictor.predict_probs(predictions, proposals))
        if self.training:
            return losses

        # Every stage judges; the last one has the best boxes, and its settings hold.
        weight = 1.0 / self.num_cascade_stages
        scores = [sum(image) * weight for image in zip(*scores_of_stages, strict=True)]
        predictor = self.box_predictor[-1]
        return fast_rcnn_inference(
            boxes,
            scores,
            image_sizes,
            predictor.test_score_thresh,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )[0]

    def _run_stage(
        self, features: Sequence[Tensor], proposals: Sequence[Instances], stage: int
    ) -> tuple[Tensor, Tensor]:
        """Predict scores and deltas of proposals with the heads of one stage.

        Args:
            features: maps, as the pooler takes them.
            proposals: for each image ``proposal_boxes``.
            stage: its number.

        Returns:
            See ``FastRCNNOutputLayers.forward``.
        """
        crops = self.box_pooler(features, [p.proposal_boxes for p in proposals])
        if self.training and crops.requires_grad:
            # The losses of all stages are summed, and the backbone gets their mean.
            scale = 1.0 / self.num_cascade_stages
            crops.register_hook(lambda gradient: gradient * scale)
        return self.box_predictor[stage](self.box_head[stage](crops))

    def _create_proposals_from_boxes(
        self, boxes: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Make the boxes of one stage the proposals of the next.

        Args:
            boxes: for each image ``(R_i, 4)``.
            image_sizes: ``(height, width)`` of each.

        Returns:
            For each image ``proposal_boxes``, clipped and without gradient. Training leaves out
            empty ones; inference does not, because the scores of all stages are added up.
        """
        clipped = [Boxes(b.detach()) for b in boxes]
        for image_boxes, image_size in zip(clipped, image_sizes, strict=True):
            image_boxes.clip(image_size)
        if self.training and clipped:
            solid = [b.nonempty() for b in clipped]
            # One wait for all images; an index by mask would wait for each.
            num_solid = torch.stack([mask.sum() for mask in solid]).tolist()
            clipped = [
                b if count == len(b) else b[mask]
                for b, mask, count in zip(clipped, solid, num_solid, strict=True)
            ]
        return [
            Instances(image_size, proposal_boxes=image_boxes)
            for image_boxes, image_size in zip(clipped, image_sizes, strict=True)
        ]

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: Sequence[Instances], stage: int, targets: Sequence[Instances]
    ) -> Sequence[Instances]:
        """Label the proposals of a later stage by the ground truth; none is left out.

        Args:
            proposals: for each image ``proposal_boxes``.
            stage: its number, and that of the matcher.
            targets: for each image ``gt_boxes`` and ``gt_classes``.

        Returns:
            The same proposals, with ``gt_classes`` and ``gt_boxes`` (zeros, where the image has
            no object).
        """
        num_foreground, num_proposals = [], 0
        for p, t in zip(proposals, targets, strict=True):
            matches, labels = self.proposal_matchers[stage](
                pairwise_iou(t.gt_boxes, p.proposal_boxes)
            )
            if len(t) > 0:
                p.gt_classes = t.gt_classes[matches].masked_fill(labels == 0, self.num_classes)
                p.gt_boxes = t.gt_boxes[matches]
            else:
                p.gt_classes = torch.full_like(matches, self.num_classes)
                p.gt_boxes = Boxes(torch.zeros_like(p.proposal_boxes.tensor))
            num_foreground.append((labels == 1).sum())
            num_proposals += len(p)

        mean_foreground = int(torch.stack(num_foreground).sum()) / len(proposals)
        storage = get_event_storage()
        storage.put_scalar(f"stage{stage}/roi_head/num_fg_samples", mean_foreground)
        storage.put_scalar(
            f"stage{stage}/roi_head/num_bg_samples",
            num_proposals / len(proposals) - mean_foreground,
        )
        return proposals

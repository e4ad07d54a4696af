# SPDX-License-Identifier: Apache-2.0
"""The region proposal network without hidden waits for the device.

Same weights, anchors, labels, losses and proposals as Detectron2's; the sample of anchors is as
random, and drawn with other numbers.

Shapes: ``N`` images, ``R`` anchors of an image over all maps, ``P`` and ``S`` places for positive
and negative anchors of an image in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import proposal_generator
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from torch import Tensor, nn

from vitdet_d2.heads.anchor_cache import AnchorCache
from vitdet_d2.heads.box_loss import masked_box_loss
from vitdet_d2.heads.box_matching import match
from vitdet_d2.heads.fixed_sampling import FixedSample, sample_fixed
from vitdet_d2.heads.late_scalars import log_scalars
from vitdet_d2.heads.rpn_proposals import Proposals, best_of_levels, select_proposals

__all__ = ["RPN", "SampledAnchors"]


@dataclass(frozen=True, kw_only=True)
class SampledAnchors:
    """The anchors that take part in the loss.

    Attributes:
        sample: their indices in the ``R`` anchors of their image.
        gt_boxes: ``(N, P, 4)`` what the positives should become; meaningless at empty places.
    """

    sample: FixedSample
    gt_boxes: Tensor


class RPN(proposal_generator.RPN):
    """Propose boxes that may hold an object, and learn to do so, as Detectron2's RPN.

    ``forward`` calls `sample_anchors` and `sampled_losses`; a subclass overrides these instead of
    ``label_and_sample_anchors`` and ``losses``. NaN and infinite predictions in training do not
    raise: the losses become NaN, for whoever looks at losses before the optimizer steps.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Any,
        box2box_transform: Any,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | Mapping[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
        pad_proposals: bool = False,
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
            pad_proposals: in training give every image the same number of proposals, so that
                nobody waits for that number. The last rows may then be no proposals: their
                ``objectness_logits`` are -inf, their boxes ``(0, 0, 0, 0)``. For region heads that
                ignore such rows, as those of `vitdet_d2.heads` do.
        """
        super().__init__(
            in_features=in_features,
            head=head,
            anchor_generator=anchor_generator,
            anchor_matcher=anchor_matcher,
            box2box_transform=box2box_transform,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            pre_nms_topk=pre_nms_topk,
            post_nms_topk=post_nms_topk,
            nms_thresh=nms_thresh,
            min_box_size=min_box_size,
            anchor_boundary_thresh=anchor_boundary_thresh,
            loss_weight=loss_weight,
            box_reg_loss_type=box_reg_loss_type,
            smooth_l1_beta=smooth_l1_beta,
        )
        self.pad_proposals = pad_proposals
        self._anchors = AnchorCache()

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
        anchors = self._anchors(self.anchor_generator, maps)
        raw_logits, raw_deltas = self.rpn_head(maps)
        # (N, A, H, W) -> (N, H * W * A): the order of the anchors
        logits = [x.permute(0, 2, 3, 1).flatten(1) for x in raw_logits]
        # (N, A * 4, H, W) -> (N, H * W * A, 4)
        deltas = [x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for x in raw_deltas]
        # Sizes on the host: a list of a batch may hold them in another form.
        sizes = [(int(height), int(width)) for height, width in images.image_sizes]
        if not self.training:
            return self._propose(anchors, logits, deltas, sizes).instances(sizes, padded=False), {}
        if gt_instances is None:
            raise ValueError("gt_instances: expected ground truth in training, got None")
        sampled = self.sample_anchors(anchors, gt_instances)
        losses = self.sampled_losses(anchors, logits, deltas, sampled)
        proposals = self._propose(anchors, logits, deltas, sizes)
        losses = {
            name: torch.where(proposals.all_finite, loss, torch.nan)
            for name, loss in losses.items()
        }
        return proposals.instances(sizes, padded=self.pad_proposals), losses

    @torch.no_grad()
    def sample_anchors(
        self, anchors: Sequence[Tensor], gt_instances: Sequence[Instances]
    ) -> SampledAnchors:
        """Label the anchors of every image, and draw those that take part in the loss.

        Args:
            anchors: ``(R_l, 4)`` of each feature map.
            gt_instances: for each image ``gt_boxes``.
        """
        all_anchors = Boxes(torch.cat(list(anchors)))
        labels, matches = [], []
        for instances in gt_instances:
            quality = pairwise_iou(instances.gt_boxes, all_anchors)
            image_matches, label = match(self.anchor_matcher, quality)
            if self.anchor_boundary_thresh >= 0:
                inside = all_anchors.inside_box(instances.image_size, self.anchor_boundary_thresh)
                label.masked_fill_(~inside, -1)
            labels.append(label)
            matches.append(image_matches)
        sample = sample_fixed(
            torch.stack(labels), self.batch_size_per_image, self.positive_fraction, 0
        )
        gt_boxes = [
            instances.gt_boxes.tensor[image_matches[index]]
            if len(instances)
            else all_anchors.tensor[index]
            for instances, image_matches, index in zip(
                gt_instances, matches, sample.positive, strict=True
            )
        ]
        return SampledAnchors(sample=sample, gt_boxes=torch.stack(gt_boxes))

    def sampled_losses(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        sampled: SampledAnchors,
    ) -> dict[str, Tensor]:
        """Compute the losses of the sampled anchors.

        Args:
            anchors: ``(R_l, 4)`` of each feature map.
            logits: ``(N, R_l)`` of each map.
            deltas: ``(N, R_l, 4)`` of each map.
            sampled: which anchors.

        Returns:
            ``loss_rpn_cls`` and ``loss_rpn_loc``, both divided by the size of a full sample.
        """
        sample = sampled.sample
        num_images = len(sample.positive)
        counts = (sample.has_positive.sum(), sample.has_negative.sum())
        log_scalars(counts, lambda numbers: _mean_counts(numbers, num_images))

        index = torch.cat((sample.positive, sample.negative), dim=1)  # (N, P + S)
        taken = torch.cat((sample.has_positive, sample.has_negative), dim=1)
        chosen = torch.cat(list(logits), dim=1).gather(1, index)
        # As in Detectron2, where labels are float32: sums of a model in bfloat16 are too.
        dtype = torch.promote_types(chosen.dtype, torch.float32)
        wanted = torch.zeros_like(chosen, dtype=dtype)
        wanted[:, : sample.positive.shape[1]] = 1
        each = F.binary_cross_entropy_with_logits(chosen, wanted, reduction="none")
        loss_cls = each.where(taken, 0.0).sum()

        positive = sample.positive[:, :, None].expand(-1, -1, 4)
        loss_loc = masked_box_loss(
            torch.cat(list(deltas), dim=1).gather(1, positive).flatten(0, 1),
            torch.cat(list(anchors))[sample.positive].flatten(0, 1),
            sampled.gt_boxes.flatten(0, 1),
            sample.has_positive.flatten(),
            box2box_transform=self.box2box_transform,
            loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        # One normaliser for both, whatever was found: the weight of an anchor never changes.
        normalizer = self.batch_size_per_image * num_images
        losses = {"loss_rpn_cls": loss_cls / normalizer, "loss_rpn_loc": loss_loc / normalizer}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.no_grad()
    def _propose(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> Proposals:
        boxes, candidates, sizes = best_of_levels(
            anchors, logits, deltas, self.pre_nms_topk[self.training], self.box2box_transform
        )
        return select_proposals(
            boxes,
            candidates,
            sizes,
            image_sizes,
            nms_thresh=self.nms_thresh,
            topk=self.post_nms_topk[self.training],
            min_box_size=self.min_box_size,
        )


def _mean_counts(numbers: Sequence[float], num_images: int) -> dict[str, float]:
    positives, negatives = numbers
    return {
        "rpn/num_pos_anchors": positives / num_images,
        "rpn/num_neg_anchors": negatives / num_images,
    }

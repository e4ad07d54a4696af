# SPDX-License-Identifier: Apache-2.0
"""The sample of proposals as Detectron2's instances, with sizes that the host knows.

Asking for the sizes of all images together is the only time that region heads wait in a training
step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.utils.events import get_event_storage
from torch import Tensor

from vitdet_d2.geometry.packed_polygons import PackedPolygons
from vitdet_d2.geometry.rasterize import PairCounts
from vitdet_d2.heads.region_sampling import RegionSample, sample_regions
from vitdet_d2.heads.sampled_masks import (
    SampledBitMasks,
    SampledPolygonMasks,
    polygons_of_batch,
)

__all__ = ["RegionSamplingMixin", "SampledProposals"]


class SampledProposals(list[Instances]):
    """Sampled proposals of every image, foreground first, and how many those are.

    Attributes:
        num_foreground: of each image.
        pairs: of each image, what there is to draw for the masks of its foreground.
    """

    num_foreground: list[int]
    pairs: list[PairCounts]

    def foreground(self) -> list[Instances]:
        """Return the foreground of every image."""
        chosen = []
        for image, count, pairs in zip(self, self.num_foreground, self.pairs, strict=True):
            foreground = image[:count]
            if foreground.has("gt_masks"):
                masks = foreground.gt_masks
                if isinstance(masks, SampledPolygonMasks):
                    foreground.gt_masks = masks.bounded(pairs)
            chosen.append(foreground)
        return chosen


class RegionSamplingMixin:
    """What `vitdet_d2.heads` changes in Detectron2's region heads, in front of one of them."""

    training: bool
    mask_on: bool
    mask_in_features: Sequence[str]
    mask_pooler: Any
    mask_head: Any
    num_classes: int
    batch_size_per_image: int
    positive_fraction: float
    proposal_matcher: Any
    proposal_append_gt: bool

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: Sequence[Instances], targets: Sequence[Instances]
    ) -> SampledProposals:
        """Label the proposals of every image by the ground truth, and draw a sample.

        Args:
            proposals: for each image ``proposal_boxes`` and ``objectness_logits``.
            targets: for each image ``gt_boxes``, ``gt_classes`` and other ``gt_*`` fields.

        Returns:
            For each image at most ``batch_size_per_image`` proposals, foreground first, with
            ``gt_classes`` and, where the image has objects, each ``gt_*`` field of the best
            overlapping object (meaningless for background).
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(list(targets), list(proposals))
        sample = sample_regions(
            proposals,
            targets,
            self.proposal_matcher,
            num_classes=self.num_classes,
            num_samples=self.batch_size_per_image,
            positive_fraction=self.positive_fraction,
        )
        polygons, starts = polygons_of_batch(targets, sample.index.device)
        sizes = torch.stack(
            [sample.num_foreground, sample.num_drawn, *_work(sample, polygons, starts)]
        )
        num_foreground, num_drawn, edges, drawn_polygons = sizes.tolist()  # the one wait

        sampled = SampledProposals()
        for i, (image, truth) in enumerate(zip(proposals, targets, strict=True)):
            drawn = num_drawn[i]
            chosen = image[sample.index[i, :drawn]]
            chosen.gt_classes = sample.classes[i, :drawn]
            if len(truth) > 0:  # without objects there is nothing to take the fields from
                objects = sample.objects[i, :drawn]
                for name, value in truth.get_fields().items():
                    if name.startswith("gt_") and not chosen.has(name):
                        chosen.set(name, _of_objects(value, objects, polygons, starts[i]))
            sampled.append(chosen)
        sampled.num_foreground = num_foreground
        sampled.pairs = [
            PairCounts(edges=e, polygons=p) for e, p in zip(edges, drawn_polygons, strict=True)
        ]
        mean_foreground = sum(num_foreground) / len(sampled)
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", mean_foreground)
        storage.put_scalar(
            "roi_head/num_bg_samples", sum(num_drawn) / len(sampled) - mean_foreground
        )
        return sampled

    def _forward_mask(self, features: Any, instances: Any) -> Any:
        """Run the mask head; in training on foreground that needs no search."""
        if not (self.training and self.mask_on and isinstance(instances, SampledProposals)):
            return super()._forward_mask(features, instances)  # type: ignore[misc]
        foreground = instances.foreground()
        maps = {name: features[name] for name in self.mask_in_features}
        if self.mask_pooler is None:
            return self.mask_head(maps, foreground)
        boxes = [image.proposal_boxes for image in foreground]
        return self.mask_head(self.mask_pooler(list(maps.values()), boxes), foreground)


def _of_objects(
    value: Any, objects: Tensor, polygons: PackedPolygons | None, start: int | None
) -> Any:
    """Return ``value[objects]``, for masks without the copies."""
    if polygons is not None and start is not None and isinstance(value, PolygonMasks):
        return SampledPolygonMasks(polygons, objects + start)
    if type(value) is BitMasks:
        return SampledBitMasks(value, objects)
    return value[objects]


def _work(
    sample: RegionSample, polygons: PackedPolygons | None, starts: Sequence[int | None]
) -> tuple[Tensor, Tensor]:
    """Return ``(N,)`` pairs of edges and of polygons that the foreground's masks are drawn from."""
    none = torch.zeros_like(sample.num_drawn)
    if polygons is None:
        return none, none
    edges, drawn = [], []
    for i, start in enumerate(starts):
        if start is None or len(polygons) == 0:
            edges.append(none[i])
            drawn.append(none[i])
            continue
        # An image without objects has no foreground; the clamp keeps its index in range.
        instance = (sample.objects[i] + start).clamp(max=len(polygons) - 1)
        counted = sample.is_foreground[i]
        edges.append(polygons.num_points[instance].where(counted, 0).sum())
        drawn.append(polygons.num_polygons[instance].where(counted, 0).sum())
    return torch.stack(edges), torch.stack(drawn)

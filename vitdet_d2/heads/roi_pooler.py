# SPDX-License-Identifier: Apache-2.0
"""Crops of boxes from a feature pyramid, without asking the device how many boxes a level has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import poolers
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import roi_align

__all__ = ["ROIPooler"]

# A corner, in pixels, that every level's crop finds far outside of its map.
_OUTSIDE = -10_000.0


class ROIPooler(poolers.ROIPooler):
    """Crop every box from one level of a feature pyramid, as Detectron2's pooler.

    Every level is asked for all boxes; those of other levels are empty boxes outside of its map,
    for which the operator takes no samples and returns 0. The sum over the levels is then each
    box's crop, to the last bit. Detectron2 searches each level's boxes, and waits for each search.
    """

    def forward(self, x: Sequence[Tensor], box_lists: Sequence[Boxes]) -> Tensor:
        """Crop.

        Args:
            x: ``(N, C, H, W)`` feature maps, one for each scale.
            box_lists: boxes of each of the ``N`` images.

        Returns:
            ``(M, C, *output_size)``, in the order of the boxes.
        """
        # In inference on the CPU a search costs less than adding zeros, and waits for nothing.
        if len(x) == 1 or not box_lists or (x[0].device.type == "cpu" and not self.training):
            return super().forward(list(x), list(box_lists))
        rois = _rois(box_lists)
        levels = poolers.assign_boxes_to_levels(
            list(box_lists),
            self.min_level,
            self.max_level,
            self.canonical_box_size,
            self.canonical_level,
        )
        outside = torch.full_like(rois, _OUTSIDE)
        outside[:, 0] = rois[:, 0]
        crops: Tensor | None = None
        for level, (pooler, feature) in enumerate(zip(self.level_poolers, x, strict=True)):
            own = torch.where((levels == level)[:, None], rois, outside)
            level_crops = _crop(pooler, feature, own)
            crops = level_crops if crops is None else crops + level_crops
        assert crops is not None, "a pyramid has levels"
        return crops


def _rois(box_lists: Sequence[Boxes]) -> Tensor:
    """Return ``(M, 5)``: image, then XYXY; Detectron2 asks the device how many boxes it has."""
    rows = [F.pad(boxes.tensor, (1, 0), value=i) for i, boxes in enumerate(box_lists)]
    return torch.cat(rows)


def _crop(pooler: nn.Module, feature: Tensor, rois: Tensor) -> Tensor:
    """Return ``(M, C, *output_size)`` in the type of the map, by coordinates in float32 or more.

    Half precision cannot hold coordinates: bfloat16 knows every fourth pixel beyond 512.
    """
    dtype = torch.promote_types(feature.dtype, torch.float32)
    if not isinstance(pooler, poolers.ROIAlign):
        return pooler(feature.to(dtype), rois.to(dtype)).to(feature.dtype)
    crops = roi_align(
        feature.to(dtype),
        rois.to(dtype),
        pooler.output_size,
        pooler.spatial_scale,
        pooler.sampling_ratio,
        pooler.aligned,
    )
    return crops.to(feature.dtype)

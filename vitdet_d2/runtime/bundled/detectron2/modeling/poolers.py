# SPDX-License-Identifier: Apache-2.0
"""Crops of fixed size from feature maps, each from the level of the pyramid that fits its box.

Shapes: ``N`` images, ``M`` boxes over all of them, ``C`` channels. Boxes are XYXY in pixels of the
input image.

Source: FPN, arXiv 1612.03144, equation 1; equals detectron2 ``poolers.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import RoIPool

__all__ = ["ROIPooler", "assign_boxes_to_levels", "convert_boxes_to_pooler_format"]


def assign_boxes_to_levels(
    box_lists: Sequence[Boxes],
    min_level: int,
    max_level: int,
    canonical_box_size: int,
    canonical_level: int,
) -> Tensor:
    """Choose the pyramid level of every box by its size.

    Args:
        box_lists: boxes of each image.
        min_level: finest level there is; level ``l`` has stride ``2 ** l``.
        max_level: coarsest level there is.
        canonical_box_size: square root of the area, in pixels, of a box that belongs to
            ``canonical_level``.
        canonical_level: see ``canonical_box_size``; twice the size is one level up.

    Returns:
        ``(M,)`` int64, counted from ``min_level``.
    """
    sizes = torch.cat([boxes.area() for boxes in box_lists]).sqrt()
    # 1e-8 keeps the logarithm of an empty box finite; it lands on the finest level.
    levels = torch.floor(canonical_level + torch.log2(sizes / canonical_box_size + 1e-8))
    return levels.clamp(min=min_level, max=max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: Sequence[Boxes]) -> Tensor:
    """Join the boxes of all images into what the pooling operators read.

    Args:
        box_lists: boxes of each image.

    Returns:
        ``(M, 5)``: image index, then XYXY.
    """
    rows = [
        torch.cat([boxes.tensor.new_full((len(boxes), 1), i), boxes.tensor], dim=1)
        for i, boxes in enumerate(box_lists)
    ]
    return torch.cat(rows, dim=0)


def _level_of(scale: float) -> int:
    """Return ``l`` for ``scale = 2 ** -l``.

    Args:
        scale: feature size / image size.

    Raises:
        ValueError: not a power of two.
    """
    level = -math.log2(scale)
    if not math.isclose(level, round(level)) or level < 0:
        raise ValueError(f"scales: expected 1 / stride with a power of 2 as stride, got {scale}")
    return round(level)


def _build_level_pooler(
    pooler_type: str, output_size: tuple[int, int], scale: float, sampling_ratio: int
) -> nn.Module:
    if pooler_type == "ROIPool":
        return RoIPool(output_size, spatial_scale=scale)
    if pooler_type not in ("ROIAlign", "ROIAlignV2"):
        raise ValueError(
            f"pooler_type: expected ROIAlign, ROIAlignV2 or ROIPool, got {pooler_type!r}"
        )
    return ROIAlign(
        output_size,
        spatial_scale=scale,
        sampling_ratio=sampling_ratio,
        aligned=pooler_type == "ROIAlignV2",
    )


class ROIPooler(nn.Module):
    """Crop every box from one level of a feature pyramid."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        """Build one pooling operator per level.

        Args:
            output_size: height and width of the crops, or one number for both.
            scales: 1 / stride of each feature map, each half of the one before.
            sampling_ratio: samples per output cell and axis; 0 chooses by the size of the box.
            pooler_type: ``ROIAlignV2`` (half-pixel exact), ``ROIAlign`` (without the half-pixel
                correction) or ``ROIPool``.
            canonical_box_size: see ``assign_boxes_to_levels``; 224 is the ImageNet input size.
            canonical_level: see ``assign_boxes_to_levels``.

        Raises:
            ValueError: scales that form no pyramid, an unknown type, or no sensible size.
        """
        super().__init__()
        size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        if len(size) != 2 or not all(isinstance(v, int) and v > 0 for v in size):
            raise ValueError(f"output_size: expected one or two positive ints, got {output_size}")
        if canonical_box_size <= 0:
            raise ValueError(f"canonical_box_size: expected > 0, got {canonical_box_size}")
        self.output_size = (size[0], size[1])
        levels = [_level_of(scale) for scale in scales]
        if not levels or levels != list(range(levels[0], levels[0] + len(levels))):
            raise ValueError(f"scales: expected each to be half of the last, got {list(scales)}")
        self.min_level = levels[0]
        self.max_level = levels[-1]
        self.canonical_level = canonical_level
        self.canonical_box_size = canonical_box_size
        self.level_poolers = nn.ModuleList(
            _build_level_pooler(pooler_type, self.output_size, s, sampling_ratio) for s in scales
        )

    def forward(self, x: Sequence[Tensor], box_lists: Sequence[Boxes]) -> Tensor:
        """Crop.

        Args:
            x: ``(N, C, H, W)`` feature maps, one for each scale.
            box_lists: boxes of each of the ``N`` images.

        Returns:
            ``(M, C, *output_size)``, in the order of the boxes.

        Raises:
            ValueError: another number of maps or images than expected.
        """
        if len(x) != len(self.level_poolers):
            raise ValueError(f"x: expected {len(self.level_poolers)} feature maps, got {len(x)}")
        if len(box_lists) == 0:
            return x[0].new_zeros((0, x[0].shape[1], *self.output_size))
        if len(box_lists) != x[0].shape[0]:
            raise ValueError(
                f"box_lists: expected one for each of the {x[0].shape[0]} images, "
                f"got {len(box_lists)}"
            )
        rois = convert_boxes_to_pooler_format(box_lists)
        if len(x) == 1:
            return self.level_poolers[0](x[0], rois)

        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        # Boxes sorted by level: one wait for the counts instead of one search per level.
        order = torch.argsort(levels, stable=True)
        counts = torch.bincount(levels, minlength=len(x)).tolist()
        # Levels without boxes are pooled too, so that every feature map gets a gradient.
        crops = torch.cat(
            [
                pooler(feature, level_rois)
                for pooler, feature, level_rois in zip(
                    self.level_poolers, x, rois[order].split(counts), strict=True
                )
            ]
        )
        return torch.empty_like(crops).index_copy(0, order, crops)

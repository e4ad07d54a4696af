# SPDX-License-Identifier: Apache-2.0
"""Bitmaps of sampled proposals without one copy of a bitmap per proposal.

Hundreds of proposals share a few ground-truth masks. A proposal's mask is therefore the index of a
ground-truth mask until somebody asks for pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks
from torch import Tensor

__all__ = ["SampledBitMasks"]


class SampledBitMasks(BitMasks):
    """``masks[index]`` that is only carried out where ``tensor`` is read."""

    def __init__(self, masks: BitMasks, index: Tensor) -> None:
        """Refer to masks.

        Args:
            masks: ``M`` bitmaps; shared, not copied.
            index: ``(R,)`` int64, which of them each of the ``R`` elements is.
        """
        # The base class would store a tensor of all R bitmaps.
        self.masks = masks
        self.index = index
        self.image_size = masks.image_size

    @property
    def tensor(self) -> Tensor:  # type: ignore[override]
        """``(R, H, W)`` bool; makes the copies."""
        return self.masks.tensor[self.index]

    @property
    def device(self) -> torch.device:
        """Where the bitmaps are."""
        return self.masks.device

    def to(self, *args: Any, **kwargs: Any) -> SampledBitMasks:
        """Move the bitmaps and the index.

        Args:
            *args: as for ``Tensor.to``.
            **kwargs: as for ``Tensor.to``.
        """
        masks = self.masks.to(*args, **kwargs)
        return SampledBitMasks(masks, self.index.to(masks.device))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int | slice | Tensor) -> SampledBitMasks:
        index = self.index[item]
        return SampledBitMasks(self.masks, index.reshape(1) if isinstance(item, int) else index)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop each element to its box, reading the shared bitmaps.

        Args:
            boxes: ``(R, 4)`` XYXY in pixels.
            mask_size: side of the crops in cells.

        Returns:
            ``(R, mask_size, mask_size)`` bool; what ``BitMasks.crop_and_resize`` gives.

        Raises:
            ValueError: another number of boxes than elements.
        """
        if len(boxes) != len(self):
            raise ValueError(f"boxes: expected {len(self)}, one per mask, got {len(boxes)}")
        boxes = boxes.to(self.device)
        rois = torch.cat([self.index[:, None].to(boxes.dtype), boxes], dim=1)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        return align(self.masks.tensor.to(boxes.dtype)[:, None], rois)[:, 0] >= 0.5

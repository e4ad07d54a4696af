# SPDX-License-Identifier: Apache-2.0
"""Ground-truth masks of sampled regions: an index, and pixels only for those that ask.

Hundreds of regions share a few masks. Detectron2 copies a mask for every region, bitmaps of whole
images included, and draws polygons one by one on the host.

Shapes: ``R`` regions, ``M`` the side of a crop in cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor
from torchvision.ops import roi_align

from vitdet_d2.geometry.packed_polygons import PackedPolygons
from vitdet_d2.geometry.rasterize import PairCounts, rasterize_in_boxes

__all__ = [
    "SampledBitMasks",
    "SampledMasks",
    "SampledPolygonMasks",
    "crop_masks",
    "polygons_of_batch",
]


class SampledMasks:
    """``masks[index]``, not carried out: what `Instances` needs of a field, and crops."""

    def __init__(self, index: Tensor) -> None:
        """Refer to masks.

        Args:
            index: ``(R,)`` int64, the mask of each region.
        """
        self.index = index

    @property
    def device(self) -> torch.device:
        """Where the index is."""
        return self.index.device

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int | slice | Tensor) -> SampledMasks:
        index = self.index[item]
        return self._of(index.reshape(1) if isinstance(item, int) else index)

    def to(self, *_args: Any, **_kwargs: Any) -> SampledMasks:
        """Return the masks themselves: they are where the regions are."""
        return self

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop each region's mask to its box.

        Args:
            boxes: ``(R, 4)`` XYXY in pixels.
            mask_size: M.

        Returns:
            ``(R, M, M)`` bool.

        Raises:
            ValueError: another number of boxes than regions.
        """
        if len(boxes) != len(self):
            raise ValueError(f"boxes: expected {len(self)}, one per mask, got {len(boxes)}")
        return self._crop(boxes, mask_size)

    def _of(self, index: Tensor) -> SampledMasks:
        raise NotImplementedError

    def _crop(self, boxes: Tensor, mask_size: int) -> Tensor:
        raise NotImplementedError


class SampledBitMasks(SampledMasks):
    """Regions of one image whose masks are bitmaps."""

    def __init__(self, masks: BitMasks, index: Tensor) -> None:
        """Refer to bitmaps.

        Args:
            masks: shared, not copied.
            index: ``(R,)`` int64.
        """
        super().__init__(index)
        self.masks = masks

    def _of(self, index: Tensor) -> SampledBitMasks:
        return SampledBitMasks(self.masks, index)

    def _crop(self, boxes: Tensor, mask_size: int) -> Tensor:
        rois = torch.cat([self.index[:, None].to(boxes.dtype), boxes], dim=1)
        bitmaps = self.masks.tensor[:, None].to(boxes.dtype)
        size = (mask_size, mask_size)
        return roi_align(bitmaps, rois, size, 1.0, 0, aligned=True)[:, 0] >= 0.5


class SampledPolygonMasks(SampledMasks):
    """Regions whose masks are polygons of the batch, which lie on the device."""

    def __init__(
        self, polygons: PackedPolygons, index: Tensor, counts: PairCounts | None = None
    ) -> None:
        """Refer to polygons.

        Args:
            polygons: of all images of the batch; shared, not copied.
            index: ``(R,)`` int64, instances of the batch.
            counts: at least what there is to draw for these regions, where that is known.
        """
        super().__init__(index)
        self.polygons = polygons
        self.counts = counts

    def bounded(self, counts: PairCounts) -> SampledPolygonMasks:
        """Return the same with what there is to draw."""
        return SampledPolygonMasks(self.polygons, self.index, counts)

    def _of(self, index: Tensor) -> SampledPolygonMasks:
        return SampledPolygonMasks(self.polygons, index)

    def _crop(self, boxes: Tensor, mask_size: int) -> Tensor:
        return rasterize_in_boxes(self.polygons, self.index, boxes, mask_size, counts=self.counts)


def polygons_of_batch(
    targets: Sequence[Instances], device: torch.device
) -> tuple[PackedPolygons | None, list[int | None]]:
    """Bring the polygons of a batch to the device, together and without waiting.

    Args:
        targets: for each image its ground truth, with ``gt_masks`` or not.
        device: of the model.

    Returns:
        The polygons of all images, None where there are none; and for each image at which
        instance of them its own start, None where its masks are no polygons.
    """
    parts: list[PackedPolygons] = []
    starts: list[int | None] = []
    start = 0
    for image in targets:
        masks = image.gt_masks if image.has("gt_masks") else None
        if not isinstance(masks, PolygonMasks):
            starts.append(None)
            continue
        # A loader may have packed them in its workers.
        packed = getattr(masks, "packed", None)
        parts.append(packed if packed is not None else PackedPolygons.pack(masks.polygons))
        starts.append(start)
        start += len(parts[-1])
    if not parts:
        return None, starts
    if any(part.device != parts[0].device for part in parts):
        parts = [part.to(device, non_blocking=True) for part in parts]
    joined = PackedPolygons.cat(parts)
    if device.type == "cuda" and joined.device.type == "cpu":
        joined = joined.pin_memory()  # a copy from other memory of the host waits
    return joined.to(device, non_blocking=True), starts


def crop_masks(masks: Sequence[Any], boxes: Sequence[Boxes], mask_size: int) -> Tensor:
    """Crop the masks of all images of a batch, those of polygons in one go.

    Args:
        masks: for each image what has ``crop_and_resize``; at least one.
        boxes: for each image as many boxes.
        mask_size: M.

    Returns:
        ``(R, M, M)`` bool.
    """
    first = masks[0]
    if isinstance(first, SampledPolygonMasks) and all(
        isinstance(m, SampledPolygonMasks) and m.polygons is first.polygons for m in masks
    ):
        counts = [m.counts for m in masks]
        total = None
        if all(c is not None for c in counts):
            total = PairCounts(
                edges=sum(c.edges for c in counts), polygons=sum(c.polygons for c in counts)
            )
        index = torch.cat([m.index for m in masks])
        every_box = torch.cat([b.tensor for b in boxes])
        return rasterize_in_boxes(first.polygons, index, every_box, mask_size, counts=total)
    crops = [m.crop_and_resize(b.tensor, mask_size) for m, b in zip(masks, boxes, strict=True)]
    device = boxes[0].tensor.device
    return torch.cat([(c if c.dtype == torch.bool else c > 0.5).to(device) for c in crops])

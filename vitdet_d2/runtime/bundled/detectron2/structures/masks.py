# SPDX-License-Identifier: Apache-2.0
"""Instance masks of one image: as bitmaps, as polygons, and as crops of boxes.

A polygon is a flat float64 array ``[x0, y0, x1, y1, ...]`` in pixels with at least three points.
N: instances, H, W: the image, M: side of a crop's mask.

Source: the behaviour of detectron2 ``structures/masks.py``.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.layers.roi_align import ROIAlign
from detectron2.structures.boxes import Boxes
from detectron2.structures.polygons import (
    polygon_area,
    polygons_to_bitmask,
    rasterize_instances,
    rasterize_polygons_within_box,
)
from torch import Tensor

__all__ = [
    "BitMasks",
    "PolygonMasks",
    "ROIMasks",
    "polygon_area",
    "polygons_to_bitmask",
    "rasterize_polygons_within_box",
]

Polygon = np.ndarray
logger = logging.getLogger(__name__)


class BitMasks:
    """N bitmaps, ``tensor`` of shape ``(N, H, W)``, bool."""

    tensor: Tensor
    image_size: tuple[int, int]

    def __init__(self, tensor: Tensor | np.ndarray) -> None:
        """Wrap bitmaps.

        Args:
            tensor: ``(N, H, W)``; what is not zero belongs to the object.

        Raises:
            ValueError: the shape is another one.
        """
        if not isinstance(tensor, Tensor):
            tensor = torch.as_tensor(tensor, dtype=torch.bool, device="cpu")
        tensor = tensor.to(torch.bool)
        if tensor.dim() != 3:
            raise ValueError(f"BitMasks: expected shape (N, H, W), got {tuple(tensor.shape)}")
        self.image_size = (tensor.shape[1], tensor.shape[2])
        self.tensor = tensor

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        """Return the masks on another device."""
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        """Where the masks are."""
        return self.tensor.device

    def __getitem__(self, item: Any) -> BitMasks:
        """Select masks, by anything that indexes a tensor; an ``int`` gives one mask."""
        selected = self.tensor[item]
        return BitMasks(selected[None] if isinstance(item, int) else selected)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield each mask as ``(H, W)``."""
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def nonempty(self) -> Tensor:
        """Return ``(N,)``, bool: whether a mask has any pixel."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: PolygonMasks | Sequence[Sequence[Polygon]], height: int, width: int
    ) -> BitMasks:
        """Rasterise polygons.

        Args:
            polygon_masks: the polygons of each instance.
            height: of the image, pixels.
            width: of the image, pixels.
        """
        masks = [polygons_to_bitmask(polygons, height, width) for polygons in polygon_masks]
        stacked = np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool)
        return BitMasks(torch.from_numpy(stacked))

    @staticmethod
    def from_roi_masks(
        roi_masks: ROIMasks, boxes: Boxes, height: int, width: int, threshold: float = 0.5
    ) -> BitMasks:
        """Paste the masks of boxes; see ``ROIMasks.to_bitmasks``."""
        return roi_masks.to_bitmasks(boxes, height, width, threshold)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop each mask by a box of its own, and resample the crop to a square.

        Args:
            boxes: ``(N, 4)``, XYXY in pixels.
            mask_size: M.

        Returns:
            ``(N, M, M)``, bool: whether at least half of a cell is covered.
        """
        _check_count(boxes, len(self))
        boxes = boxes.to(self.device)
        index = torch.arange(len(boxes), device=self.device, dtype=boxes.dtype)[:, None]
        align = ROIAlign((mask_size, mask_size), spatial_scale=1.0, sampling_ratio=0, aligned=True)
        crops = align(self.tensor[:, None].to(torch.float32), torch.cat([index, boxes], dim=1))
        return crops[:, 0] >= 0.5

    def get_bounding_boxes(self) -> Boxes:
        """Return the tight box of each mask, all zero where a mask is empty."""
        (x1, x2), (y1, y2) = _extent(self.tensor.any(dim=1)), _extent(self.tensor.any(dim=2))
        boxes = torch.stack([x1, y1, x2, y2], dim=1).to(torch.float32)
        return Boxes(boxes * self.nonempty()[:, None])

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> BitMasks:
        """Join the masks of one image; there is at least one group of them."""
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list]))


def _extent(used: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and one past the last true column of each row of ``(N, L)``."""
    length = used.shape[1]
    counts = used.to(torch.uint8)
    return counts.argmax(dim=1), length - counts.flip(1).argmax(dim=1)


def _check_count(boxes: Tensor, count: int) -> None:
    if len(boxes) != count:
        raise ValueError(f"boxes: expected one per mask ({count}), got {len(boxes)}")


class PolygonMasks:
    """N instances, ``polygons``: a list of polygons for each; always on the CPU."""

    polygons: list[list[Polygon]]

    def __init__(self, polygons: list[list[Any]]) -> None:
        """Check and convert polygons.

        Args:
            polygons: for each instance its polygons, each an array, tensor or list.

        Raises:
            TypeError: it is no list of lists.
            ValueError: a polygon has an odd number of coordinates, or fewer than three points.
        """
        if not isinstance(polygons, list):
            raise TypeError(f"PolygonMasks: expected a list, got {type(polygons).__name__}")
        self.polygons = [_instance_polygons(instance) for instance in polygons]

    @classmethod
    def _trusted(cls, polygons: list[list[Polygon]]) -> PolygonMasks:
        """Wrap polygons that were checked before, without a copy of their coordinates."""
        masks = cls.__new__(cls)
        masks.polygons = polygons
        return masks

    def to(self, *args: Any, **kwargs: Any) -> PolygonMasks:  # noqa: ARG002
        """Return the masks themselves: polygons stay on the CPU."""
        return self

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """Return the tight box of each instance.

        The lower right corner is never left of or above the image's origin, and an instance
        without a polygon has the box ``(inf, inf, 0, 0)``, both as in Detectron2.
        """
        boxes = np.empty((len(self), 4), dtype=np.float32)
        for box, polygons in zip(boxes, self.polygons, strict=True):
            points = np.concatenate([np.empty(0), *polygons]).reshape(-1, 2)
            box[:2] = points.min(axis=0, initial=np.inf)
            box[2:] = points.max(axis=0, initial=0.0)
        return Boxes(torch.from_numpy(boxes))

    def nonempty(self) -> Tensor:
        """Return ``(N,)``, bool: whether an instance has any polygon."""
        return torch.tensor([len(polygons) > 0 for polygons in self.polygons], dtype=torch.bool)

    def __getitem__(self, item: int | slice | Sequence[int] | Tensor | np.ndarray) -> PolygonMasks:
        """Select instances; the result shares the polygons.

        Args:
            item: an index, a slice, or a list, array or tensor of indices or of one flag per
                instance.

        Returns:
            The selected instances.

        Raises:
            ValueError: a tensor or array of neither integers nor flags, or of a wrong shape.
        """
        if isinstance(item, slice):
            return self._trusted(self.polygons[item])
        return self._trusted([self.polygons[index] for index in _indices(item, len(self))])

    def __iter__(self) -> Iterator[list[Polygon]]:
        """Yield the polygons of each instance."""
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop each instance by a box of its own, and rasterise the crop as a square.

        Args:
            boxes: ``(N, 4)``, XYXY in pixels; a side shorter than 0.1 pixels counts as 0.1.
            mask_size: M.

        Returns:
            ``(N, M, M)``, bool, on the device of the boxes.
        """
        _check_count(boxes, len(self))
        masks = rasterize_instances(self.polygons, boxes.detach().cpu().numpy(), mask_size)
        return torch.from_numpy(masks).to(boxes.device)

    def area(self) -> Tensor:
        """Return ``(N,)``, float64: the sum of the polygons' areas, square pixels."""
        areas = [
            sum(float(polygon_area(p[0::2], p[1::2])) for p in polygons)
            for polygons in self.polygons
        ]
        return torch.tensor(areas, dtype=torch.float64)

    @staticmethod
    def cat(polymasks_list: Sequence[PolygonMasks]) -> PolygonMasks:
        """Join the masks of one image; the result shares the polygons."""
        joined = itertools.chain.from_iterable(masks.polygons for masks in polymasks_list)
        return PolygonMasks._trusted(list(joined))


def _instance_polygons(polygons: Any) -> list[Polygon]:
    if not isinstance(polygons, list):
        raise TypeError(
            f"PolygonMasks: expected a list of polygons per instance, got {type(polygons).__name__}"
        )
    # A copy: the caller's annotations are not changed by what is done to the masks.
    arrays = [
        np.array(p.cpu().numpy() if isinstance(p, Tensor) else p, dtype=np.float64)
        for p in polygons
    ]
    for array in arrays:
        if array.ndim != 1 or len(array) % 2 or len(array) < 6:
            raise ValueError(
                "PolygonMasks: expected polygons as [x0, y0, x1, y1, ...] with at least 3 points, "
                f"got one of shape {array.shape}"
            )
    return arrays


def _indices(item: int | Sequence[int] | Tensor | np.ndarray, length: int) -> list[int]:
    if isinstance(item, int):
        return [item]
    chosen = item.cpu().numpy() if isinstance(item, Tensor) else np.asarray(item)
    if chosen.dtype == bool:
        if chosen.shape != (length,):
            raise ValueError(f"index: expected {length} flags, got shape {chosen.shape}")
        return np.flatnonzero(chosen).tolist()
    if chosen.size == 0:
        return []
    if chosen.dtype.kind not in "iu" or chosen.ndim > 1:
        raise ValueError(
            f"index: expected a vector of integers or flags, got {chosen.dtype} of shape "
            f"{chosen.shape}"
        )
    return np.atleast_1d(chosen).tolist()


class ROIMasks:
    """N masks of boxes, ``tensor`` of shape ``(N, M, M)``; the boxes are kept elsewhere."""

    tensor: Tensor

    def __init__(self, tensor: Tensor) -> None:
        """Wrap masks.

        Args:
            tensor: ``(N, M, M)``, usually probabilities.

        Raises:
            ValueError: it has not three axes.
        """
        if tensor.dim() != 3:
            raise ValueError(f"ROIMasks: expected shape (N, M, M), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def to(self, device: torch.device | str) -> ROIMasks:
        """Return the masks on another device."""
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        """Where the masks are."""
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item: Any) -> ROIMasks:
        """Select masks, by a slice, a list or a tensor."""
        return ROIMasks(self.tensor[item])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def to_bitmasks(
        self, boxes: Boxes, height: int, width: int, threshold: float = 0.5
    ) -> BitMasks:
        """Paste each mask into an image.

        Args:
            boxes: N boxes, in pixels of that image.
            height: of the image.
            width: of the image.
            threshold: pixels of at least this value belong to the object.

        Returns:
            N bitmaps; on the CPU where the device has no memory for them.
        """
        shape = (height, width)
        try:
            pasted = paste_masks_in_image(self.tensor, boxes.tensor, shape, threshold)
        except torch.OutOfMemoryError:
            logger.warning(
                "no device memory for %d masks of %s: pasting on the CPU", len(self), shape
            )
            pasted = paste_masks_in_image(self.tensor.cpu(), boxes.tensor.cpu(), shape, threshold)
        return BitMasks(pasted)

# SPDX-License-Identifier: Apache-2.0
"""From annotations to ``Instances`` with array operations over all objects of an image.

The same values as Detectron2's functions in ``detection_utils`` give object by object. Annotations
of other kinds (run-length codes, objects without a mask among others) are left to them.

N: objects. An annotation is a dictionary, see ``detection_utils``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    PolygonMasks,
    polygons_to_bitmask,
)
from fvcore.transforms.transform import TransformList
from numpy.typing import NDArray

from vitdet_d2.data.polygon_arrays import (
    PolygonArrays,
    bounding_boxes,
    pack,
    transform_polygons,
)

Annotation = dict[str, Any]
Array = NDArray[Any]

# Detectron2's: boxes that are not wider and higher than this, in pixels, hold nothing.
_EMPTY_BOX = 1e-5
_BOX_MODES = (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)


@dataclass(frozen=True, kw_only=True)
class InstanceOptions:
    """What an object is made of.

    Attributes:
        masks: whether it has a mask.
        mask_format: what the mask is.
        recompute_boxes: whether its box is that of its transformed mask.
    """

    masks: bool
    mask_format: Literal["polygon", "bitmask"]
    recompute_boxes: bool


def build_instances(
    annotations: Sequence[Annotation],
    transforms: TransformList,
    image_size: tuple[int, int],
    options: InstanceOptions,
) -> Instances | None:
    """Transform the objects of an image, and leave out those of which nothing is left.

    Args:
        annotations: without crowds; not changed.
        transforms: of the image.
        image_size: ``(height, width)`` after them.
        options: what to build.

    Returns:
        ``gt_boxes``, ``gt_classes`` and, if asked for, ``gt_masks``; None: annotations that only
        Detectron2's own functions handle, or refuse.
    """
    polygons = _transformed_polygons(annotations, transforms) if options.masks else None
    if options.masks and polygons is None:
        return None
    masks = None if polygons is None else _masks(polygons, len(annotations), image_size, options)
    boxes = (
        _mask_boxes(masks, polygons, len(annotations))
        if masks is not None and options.recompute_boxes
        else _transformed_boxes(annotations, transforms, image_size)
    )
    if boxes is None:
        return None
    keep = (boxes[:, 2:] - boxes[:, :2] > _EMPTY_BOX).all(axis=1)
    if masks is not None:
        keep &= masks.nonempty().numpy()
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes[keep]))
    classes = np.array([int(a["category_id"]) for a in annotations], dtype=np.int64)
    instances.gt_classes = torch.from_numpy(classes[keep])
    if masks is not None:
        instances.gt_masks = masks if keep.all() else masks[torch.from_numpy(keep)]
    return instances


def _transformed_polygons(
    annotations: Sequence[Annotation], transforms: TransformList
) -> PolygonArrays | None:
    """Return the polygons of all objects; None where one has no polygons or wrong ones."""
    segmentations = [annotation.get("segmentation") for annotation in annotations]
    if not all(isinstance(segmentation, list) for segmentation in segmentations):
        return None
    packed = pack([segmentation or [] for segmentation in segmentations])
    return None if packed is None else transform_polygons(packed, transforms.transforms)


def _masks(
    polygons: PolygonArrays, count: int, image_size: tuple[int, int], options: InstanceOptions
) -> PolygonMasks | BitMasks:
    grouped: list[list[Array]] = [[] for _ in range(count)]
    for polygon, owner in zip(polygons.split(), polygons.owners.tolist(), strict=True):
        grouped[owner].append(polygon.reshape(-1))
    if options.mask_format == "polygon":
        return PolygonMasks(grouped)
    bits = np.zeros((count, *image_size), dtype=bool)
    for bitmap, parts in zip(bits, grouped, strict=True):
        if parts:
            bitmap[:] = polygons_to_bitmask(parts, *image_size)
    return BitMasks(torch.from_numpy(bits))


def _mask_boxes(
    masks: PolygonMasks | BitMasks, polygons: PolygonArrays | None, count: int
) -> Array:
    if isinstance(masks, BitMasks):
        return masks.get_bounding_boxes().tensor.numpy()
    assert polygons is not None, "polygon masks are made of polygons"
    return bounding_boxes(polygons, count)


def _transformed_boxes(
    annotations: Sequence[Annotation], transforms: TransformList, image_size: tuple[int, int]
) -> Array | None:
    """Return ``(N, 4)`` float32, XYXY, within the image; None where boxes are of several kinds."""
    modes = {annotation["bbox_mode"] for annotation in annotations}
    if len(modes) > 1 or not modes <= set(_BOX_MODES):
        return None
    if not annotations:
        return np.zeros((0, 4), dtype=np.float32)
    raw = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64)
    if modes == {BoxMode.XYWH_ABS}:
        # As Detectron2 converts a list: in single precision.
        raw = BoxMode.convert(
            torch.from_numpy(raw.astype(np.float32)), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS
        ).numpy()
    boxes = transforms.apply_box(raw.astype(np.float64)).clip(min=0)
    height, width = image_size
    return np.minimum(boxes, (width, height, width, height)).astype(np.float32)

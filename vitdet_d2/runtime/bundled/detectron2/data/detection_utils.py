# SPDX-License-Identifier: Apache-2.0
"""What mappers are made of: reading images, transforming annotations, building ``Instances``.

An annotation is a dictionary: ``bbox``, ``bbox_mode``, ``category_id``, ``segmentation`` (polygons
as lists of ``x0, y0, x1, y1, ...`` in pixels, or a COCO run-length code), ``iscrowd``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.data.catalog import MetadataCatalog
from detectron2.data.federated_weights import get_fed_loss_cls_weights
from detectron2.data.instance_crop import gen_crop_transform_with_instance
from detectron2.data.standard_augmentation import build_augmentation
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    PolygonMasks,
    polygons_to_bitmask,
)
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from vitdet_d2.errors import DataError
from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "ImageReadError",
    "SizeMismatchError",
    "annotations_to_instances",
    "build_augmentation",
    "check_image_size",
    "check_metadata_consistency",
    "convert_PIL_to_numpy",
    "convert_image_to_rgb",
    "filter_empty_instances",
    "gen_crop_transform_with_instance",
    "get_fed_loss_cls_weights",
    "read_image",
    "transform_instance_annotations",
]

__getattr__ = absent_attribute(__name__)

logger = logging.getLogger(__name__)

Array = NDArray[Any]

# Rec. 601: rows give Y, U, V from R, G, B in 0-1
_RGB_TO_YUV = np.array(
    [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
)
_YUV_TO_RGB = np.array([[1.0, 0.0, 1.13983], [1.0, -0.39465, -0.58060], [1.0, 2.03211, 0.0]])


class SizeMismatchError(DataError):
    """An image has another size than its annotation says."""


class ImageReadError(DataError, OSError):
    """A file cannot be read as an image."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> Array:  # noqa: N802
    """Convert a Pillow image to an array.

    Args:
        image: any mode with 8 bits per channel.
        format: a Pillow mode, ``BGR``, ``YUV-BT.601`` (floating point, Y in 0-1), or None: as is.

    Returns:
        ``(H, W, C)``; ``(H, W)`` only for formats of one channel other than ``L``.

    Raises:
        DataError: more than 8 bits per channel, which Pillow would cut to white.
    """
    if format is not None:
        if image.mode[0] in "IF":  # "I", "I;16", "F"
            raise DataError(
                f"the image has more than 8 bits per channel (mode {image.mode}); "
                "convert it to 8 bits first, with the scale that suits the data"
            )
        image = image.convert("RGB" if format in ("BGR", "YUV-BT.601") else format)
    array = np.asarray(image)
    if format == "L":
        return array[:, :, None]
    if format == "BGR":
        return array[:, :, ::-1]
    if format == "YUV-BT.601":
        return (array / 255.0) @ _RGB_TO_YUV.T
    return array


def convert_image_to_rgb(image: Array | torch.Tensor, format: str) -> Array:
    """Convert an image to RGB.

    Args:
        image: ``(H, W, C)``.
        format: what it is, as in :func:`read_image`.

    Returns:
        ``(H, W, 3)``, 0-255, uint8 (floating point from BGR of that type, and from YUV).
    """
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if format == "BGR":
        return image[:, :, ::-1]
    if format == "YUV-BT.601":
        return (image @ _YUV_TO_RGB.T) * 255.0
    image = image.astype(np.uint8)
    if format == "RGB":
        return image
    if format == "L":
        return image[:, :, :1].repeat(3, axis=2)
    height, width = image.shape[:2]
    return np.asarray(Image.frombytes(format, (width, height), image.tobytes()).convert("RGB"))


def read_image(file_name: str, format: str | None = None) -> Array:
    """Read an image, turned upright where its EXIF data says how.

    Args:
        file_name: a path, or whatever else ``PathManager`` opens.
        format: as in :func:`convert_PIL_to_numpy`.

    Returns:
        ``(H, W, C)``, usually uint8.

    Raises:
        ImageReadError: missing, damaged, no image, or of a kind that is not supported; the message
            names the file.
    """
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            if getattr(image, "is_animated", False):
                logger.warning("%s is animated; its first frame is used", file_name)
            return convert_PIL_to_numpy(_upright(image), format)
    # SyntaxError is what Pillow raises for a broken PNG, the bomb error for more than 179 MP
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image file"  # Pillow's own text shows the file object's address
        raise ImageReadError(f"cannot read image {file_name}: {reason}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; broken EXIF data is ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, TypeError, ValueError, KeyError, ZeroDivisionError):
        image.load()  # damaged pixels are an error of their own, damaged EXIF data is not
        return image


def check_image_size(dataset_dict: dict[str, Any], image: Array) -> None:
    """Compare an image with its record's ``width`` and ``height``; fill them in where missing.

    Args:
        dataset_dict: the record.
        image: ``(H, W, ...)``, after turning it upright.

    Raises:
        SizeMismatchError: they differ; the message says so where EXIF data explains it.
    """
    height, width = image.shape[:2]
    expected = (dataset_dict.get("width", width), dataset_dict.get("height", height))
    if expected != (width, height):
        name = dataset_dict.get("file_name", "image")
        message = (
            f"{name} is {width} x {height} pixels (width x height), "
            f"its annotation says {expected[0]} x {expected[1]}"
        )
        if expected == (height, width) and _is_turned_by_exif(name):
            raise SizeMismatchError(
                f"{message}: the file is turned by its EXIF orientation, and the annotation holds "
                "the size before that. If the boxes were drawn on the upright picture, swap width "
                "and height in the annotation; if on the unturned one, remove the EXIF orientation "
                "from the file"
            )
        raise SizeMismatchError(f"{message}; correct width and height, or replace the image")
    dataset_dict["width"], dataset_dict["height"] = expected


def _is_turned_by_exif(file_name: str) -> bool:
    """Whether the EXIF orientation swaps width and height (values 5 to 8)."""
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except (OSError, SyntaxError, ValueError, TypeError):
        return False


def transform_instance_annotations(
    annotation: dict[str, Any],
    transforms: T.Transform | Sequence[T.Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: Array | None = None,
) -> dict[str, Any]:
    """Apply transforms to the box and the segmentation of one object.

    Args:
        annotation: changed in place: ``bbox`` becomes XYXY, clipped to the image; polygons become
            arrays; a run-length code becomes a ``(H, W)`` uint8 mask.
        transforms: what was applied to the image.
        image_size: ``(height, width)`` of the transformed image.
        keypoint_hflip_indices: must be None.

    Returns:
        The annotation.

    Raises:
        ValueError: keypoints, or a segmentation of another kind.
    """
    if keypoint_hflip_indices is not None or "keypoints" in annotation:
        raise ValueError(
            "keypoints are not part of the bundled Detectron2 subset; "
            "remove them from the annotations, or install Detectron2"
        )
    if isinstance(transforms, Sequence):
        transforms = T.TransformList(list(transforms))
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    # Floating point first: transforms write in place, and whole numbers would be cut.
    box = transforms.apply_box(np.array([box], dtype=np.float64))[0].clip(min=0)
    height, width = image_size
    annotation["bbox"] = np.minimum(box, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(
            annotation["segmentation"], transforms, image_size
        )
    return annotation


def _transform_segmentation(
    segmentation: Any, transforms: T.Transform, image_size: tuple[int, int]
) -> list[Array] | Array:
    if isinstance(segmentation, list):
        polygons = [np.array(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
        return [p.reshape(-1) for p in transforms.apply_polygons(polygons)]
    if isinstance(segmentation, dict):
        mask = transforms.apply_segmentation(mask_util.decode(segmentation))
        assert mask.shape == image_size, f"mask {mask.shape} left an image of {image_size}"
        # Padding fills labels with 255, which is no part of the object.
        return (mask == 1).astype(np.uint8)
    raise ValueError(
        f"a segmentation must be polygons (list) or a COCO run-length code (dict), "
        f"got {type(segmentation).__name__}"
    )


def annotations_to_instances(
    annos: Sequence[dict[str, Any]], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Build what models train on.

    Args:
        annos: transformed annotations of one image.
        image_size: ``(height, width)``.
        mask_format: ``polygon`` or ``bitmask``.

    Returns:
        ``gt_boxes``, ``gt_classes``, and ``gt_masks`` where there are annotations with a
        segmentation.

    Raises:
        ValueError: unknown mask format; some annotations have a segmentation and others have none;
            run-length codes with ``polygon``.
    """
    if mask_format not in ("polygon", "bitmask"):
        raise ValueError(f"mask_format must be 'polygon' or 'bitmask', got {mask_format!r}")
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.as_tensor(np.stack(boxes) if boxes else np.zeros((0, 4))))
    instances.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)
    with_mask = sum("segmentation" in a for a in annos)
    if with_mask:
        if with_mask < len(annos):
            raise ValueError(
                f"{len(annos) - with_mask} of {len(annos)} annotations of an image have no "
                "segmentation; add it, or set use_instance_mask=False"
            )
        segmentations = [a["segmentation"] for a in annos]
        if mask_format == "polygon":
            instances.gt_masks = _polygon_masks(segmentations)
        else:
            masks = [_bitmask(s, image_size) for s in segmentations]
            instances.gt_masks = BitMasks(torch.from_numpy(np.stack(masks)))
    return instances


def _polygon_masks(segmentations: list[Any]) -> PolygonMasks:
    if not all(isinstance(s, list) for s in segmentations):
        raise ValueError(
            "instance_mask_format='polygon' needs polygons, and an annotation is a mask or a "
            "run-length code; set instance_mask_format='bitmask'"
        )
    return PolygonMasks(segmentations)


def _bitmask(segmentation: Any, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return ``(H, W)`` from polygons, a run-length code, or a mask.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(segmentation, list):
        return np.asarray(polygons_to_bitmask(segmentation, *image_size), dtype=bool)
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation).astype(bool)
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        return segmentation.astype(bool)
    raise ValueError(
        "a segmentation must be polygons (list), a COCO run-length code (dict) or a 2D mask, got "
        f"{type(segmentation).__name__} of shape {getattr(segmentation, 'shape', None)}"
    )


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Any:
    """Leave out objects of which the transforms left nothing.

    Args:
        instances: with ``gt_boxes``, perhaps ``gt_masks``.
        by_box: leave out boxes narrower or lower than the threshold.
        by_mask: leave out empty masks, where there are masks.
        box_threshold: pixels.
        return_mask: also return which ones were kept.

    Returns:
        The other ``Instances``; a pair of them and ``(N,)`` bool if asked for.

    Raises:
        ValueError: neither criterion is chosen.
    """
    if not (by_box or by_mask):
        raise ValueError("filter_empty_instances needs by_box or by_mask")
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty()
    return (instances[keep], keep) if return_mask else instances[keep]


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Require that data sets agree on a piece of metadata.

    Args:
        key: for example ``thing_classes``.
        dataset_names: their names.

    Raises:
        AttributeError: a data set has no such metadata.
        ValueError: they differ.
    """
    values = {name: getattr(MetadataCatalog.get(name), key) for name in dataset_names}
    for name, value in values.items():
        if value != values[dataset_names[0]]:
            raise ValueError(
                f"data sets {dataset_names[0]!r} and {name!r} differ in {key}: "
                f"{values[dataset_names[0]]} and {value}"
            )

# SPDX-License-Identifier: Apache-2.0
"""Transforms (what is done to an image) and augmentations (how it is decided); usually ``T``.

fvcore's transforms are part of this namespace, except ``CropTransform``, which is ours.
"""

from __future__ import annotations

from detectron2.data.transforms.augmentation import (
    AugInput,
    Augmentation,
    AugmentationList,
    StandardAugInput,
    TransformGen,
    apply_augmentations,
    apply_transform_gens,
)
from detectron2.data.transforms.augmentation_impl import (
    FixedSizeCrop,
    RandomApply,
    RandomBrightness,
    RandomContrast,
    RandomCrop,
    RandomExtent,
    RandomFlip,
    RandomLighting,
    RandomResize,
    RandomSaturation,
    Resize,
    ResizeScale,
    ResizeShortestEdge,
)
from detectron2.data.transforms.transform import (
    ColorTransform,
    CropTransform,
    ExtentTransform,
    PILColorTransform,
    ResizeTransform,
)
from fvcore.transforms.transform import (
    BlendTransform,
    GridSampleTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    ScaleTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "BlendTransform",
    "ColorTransform",
    "CropTransform",
    "ExtentTransform",
    "FixedSizeCrop",
    "GridSampleTransform",
    "HFlipTransform",
    "NoOpTransform",
    "PILColorTransform",
    "PadTransform",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomExtent",
    "RandomFlip",
    "RandomLighting",
    "RandomResize",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
    "ResizeTransform",
    "ScaleTransform",
    "StandardAugInput",
    "Transform",
    "TransformGen",
    "TransformList",
    "VFlipTransform",
    "apply_augmentations",
    "apply_transform_gens",
]

__getattr__ = absent_attribute(__name__)

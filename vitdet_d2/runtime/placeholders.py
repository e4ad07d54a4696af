# SPDX-License-Identifier: Apache-2.0
"""Names of Detectron2 that can be imported although they are not bundled.

Projects import some classes at the top of their files only to compare types with them, or to
choose them by an option: ``isinstance(boxes, RotatedBoxes)``. Such a file must start. So every
name in the table below resolves to a class that is nobody's type, and that says what is missing
where it is called, subclassed or looked into.

Names that are not in the table fail at import, as before.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NoReturn

# Module -> names. Modules that the bundled package lacks come into being with these names.
PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "detectron2.data.detection_utils": (
        "create_keypoint_hflip_indices",
        "load_proposals_into_dataset",
        "transform_keypoint_annotations",
        "transform_proposals",
    ),
    "detectron2.data.transforms": ("RandomRotation", "RotationTransform"),
    "detectron2.engine.hooks": (
        "AutogradProfiler",
        "PreciseBN",
        "TorchMemoryStats",
        "TorchProfiler",
    ),
    "detectron2.evaluation": (
        "COCOPanopticEvaluator",
        "CityscapesInstanceEvaluator",
        "CityscapesSemSegEvaluator",
        "PascalVOCDetectionEvaluator",
        "RotatedCOCOEvaluator",
        "SemSegEvaluator",
    ),
    "detectron2.export": ("TracingAdapter", "dump_torchscript_IR", "scripting_with_instances"),
    "detectron2.export.flatten": ("TracingAdapter", "flatten_to_tuple"),
    "detectron2.export.torchscript": (
        "dump_torchscript_IR",
        "patch_instances",
        "scripting_with_instances",
    ),
    "detectron2.export.torchscript_patch": (
        "freeze_training_mode",
        "patch_builtin_len",
        "patch_instances",
    ),
    "detectron2.layers": (
        "ASPP",
        "DeformConv",
        "DepthwiseSeparableConv2d",
        "ModulatedDeformConv",
        "ROIAlignRotated",
        "batched_nms_rotated",
        "deform_conv",
        "modulated_deform_conv",
        "nms_rotated",
        "roi_align_rotated",
    ),
    "detectron2.layers.mask_ops": ("pad_masks", "paste_mask_in_image_old", "scale_boxes"),
    "detectron2.layers.nms": ("batched_nms_rotated", "nms_rotated"),
    "detectron2.layers.roi_align_rotated": ("ROIAlignRotated", "roi_align_rotated"),
    "detectron2.layers.rotated_boxes": ("pairwise_iou_rotated",),
    "detectron2.modeling": (
        "DatasetMapperTTA",
        "GeneralizedRCNNWithTTA",
        "MViT",
        "PanopticFPN",
        "ResNet",
        "ResNetBlockBase",
        "SemanticSegmentor",
        "SwinTransformer",
        "build_resnet_backbone",
        "build_sem_seg_head",
        "make_stage",
    ),
    "detectron2.modeling.anchor_generator": ("RotatedAnchorGenerator",),
    "detectron2.modeling.backbone": (
        "BasicStem",
        "BottleneckBlock",
        "ResNet",
        "ResNetBlockBase",
        "build_resnet_backbone",
        "make_stage",
    ),
    "detectron2.modeling.backbone.resnet": (
        "BasicBlock",
        "BasicStem",
        "BottleneckBlock",
        "DeformBottleneckBlock",
        "ResNet",
        "ResNetBlockBase",
        "build_resnet_backbone",
        "make_stage",
    ),
    "detectron2.modeling.box_regression": ("Box2BoxTransformRotated",),
    "detectron2.modeling.roi_heads": (
        "BaseKeypointRCNNHead",
        "KRCNNConvDeconvUpsampleHead",
        "Res5ROIHeads",
    ),
    "detectron2.modeling.roi_heads.keypoint_head": (
        "BaseKeypointRCNNHead",
        "KRCNNConvDeconvUpsampleHead",
        "build_keypoint_head",
    ),
    "detectron2.modeling.roi_heads.rotated_fast_rcnn": (
        "RROIHeads",
        "RotatedFastRCNNOutputLayers",
    ),
    "detectron2.modeling.test_time_augmentation": ("DatasetMapperTTA", "GeneralizedRCNNWithTTA"),
    "detectron2.structures": (
        "Keypoints",
        "RotatedBoxes",
        "heatmaps_to_keypoints",
        "pairwise_iou_rotated",
    ),
    "detectron2.structures.keypoints": ("Keypoints", "heatmaps_to_keypoints"),
    "detectron2.structures.rotated_boxes": ("RotatedBoxes", "pairwise_iou"),
    "detectron2.utils.memory": ("retry_if_cuda_oom",),
    "detectron2.utils.testing": ("convert_scripted_instances", "get_sample_coco_image"),
    "detectron2.utils.video_visualizer": ("VideoVisualizer",),
}


class _PlaceholderType(type):
    """The type of placeholders: everything but being named and compared with raises."""

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(cls.__doc__)

    def __getattr__(cls, name: str) -> NoReturn:
        if name.startswith("__"):  # asked for by copy, pickle and inspect
            raise AttributeError(f"{cls.__name__} has no attribute {name!r}")
        raise AttributeError(cls.__doc__, name=name)

    def __repr__(cls) -> str:
        return f"<placeholder of {cls.__module__}.{cls.__name__}, which is not bundled>"


def _refuse_subclass(cls: type, **kwargs: Any) -> NoReturn:
    raise NotImplementedError(cls.__mro__[1].__doc__)


def has_placeholder(module: str, name: str) -> bool:
    """Return whether ``module.name`` can be imported without being there."""
    return name in PLACEHOLDERS.get(module, ())


def is_placeholder_module(name: str) -> bool:
    """Return whether a module may come into being for the names in the table, or above one."""
    return any(known == name or known.startswith(f"{name}.") for known in PLACEHOLDERS)


@cache
def placeholder(module: str, name: str, message: str) -> type:
    """Return the class that stands for ``module.name``; the same one every time.

    Args:
        module: dotted name, for example ``detectron2.structures``.
        name: of the class or function.
        message: what is said where it is used.

    Returns:
        A class of which nothing is an instance. Calling and subclassing it is a
        ``NotImplementedError``, its attributes are ``AttributeError``s, each with the message.
    """
    return _PlaceholderType(
        name,
        (),
        {
            "__module__": module,
            "__doc__": message,
            "__init_subclass__": classmethod(_refuse_subclass),
        },
    )

# SPDX-License-Identifier: Apache-2.0
"""Detectron2's mapper, several times as fast, also for images without objects.

The augmentations are drawn first, as far as they need no pixels, so that only what the crop keeps
is resized; annotations are transformed all at once, and records are not copied. With ``exact``
(the default) a sample equals that of Detectron2's mapper, with the same random numbers, pixel for
pixel. Without it, torch resizes JPEG and PNG images instead of Pillow, whose grey values differ by
up to 1 of 255; this is for training.

Errors name the image, where Detectron2's own mapper reports a damaged file without its name.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2 import data as detectron2_data
from detectron2.config import configurable
from detectron2.data import detection_utils as utils
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from fvcore.transforms.transform import TransformList
from numpy.typing import NDArray
from torch import Tensor

from vitdet_d2.data.canvas import Canvas, apply_known
from vitdet_d2.data.decode import read_canvas
from vitdet_d2.data.instances import InstanceOptions, build_instances
from vitdet_d2.data.load_failures import UNREADABLE, UnreadableImageError, describe_unreadable
from vitdet_d2.data.shape_draws import draw_from_shape

Record = dict[str, Any]


class DatasetMapper(detectron2_data.DatasetMapper):
    """Drop-in replacement of ``detectron2.data.DatasetMapper``, with the same arguments."""

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: Literal["polygon", "bitmask"] = "polygon",
        keypoint_hflip_indices: NDArray[Any] | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
        exact: bool = True,
    ) -> None:
        """Keep the choices.

        Args:
            is_train: keep annotations, as ``instances``.
            augmentations: applied first to last.
            image_format: as in Detectron2's ``read_image``.
            use_instance_mask: keep segmentations.
            use_keypoint: keep keypoints; needs an installed Detectron2.
            instance_mask_format: what segmentations become.
            keypoint_hflip_indices: of keypoints.
            precomputed_proposal_topk: how many proposals of the record are kept; needs an
                installed Detectron2.
            recompute_boxes: take boxes from the transformed masks, which a crop has made smaller.
            exact: the pixels that Detectron2's mapper gives; otherwise they may differ by 1.
        """
        super().__init__(
            is_train,
            augmentations=augmentations,
            image_format=image_format,
            use_instance_mask=use_instance_mask,
            use_keypoint=use_keypoint,
            instance_mask_format=instance_mask_format,
            keypoint_hflip_indices=keypoint_hflip_indices,
            precomputed_proposal_topk=precomputed_proposal_topk,
            recompute_boxes=recompute_boxes,
        )
        self.exact = exact

    def __call__(self, dataset_dict: Record) -> Record:
        """Return a sample.

        Args:
            dataset_dict: a record; it is not changed.

        Returns:
            As Detectron2's; an image without objects, or with crowds only, gets empty
            ``instances`` in training. The channels of ``image`` may lie side by side in memory.

        Raises:
            UnreadableImageError: the file is missing, damaged, or no image.
        """
        annotations = dataset_dict.get("annotations")
        without_objects = (
            self.is_train
            and annotations is not None
            and all(annotation.get("iscrowd", 0) for annotation in annotations)
        )
        if without_objects:
            dataset_dict = {k: v for k, v in dataset_dict.items() if k != "annotations"}
        try:
            sample = self._fast(dataset_dict)
            if sample is None:
                sample = super().__call__(dataset_dict)
        except UNREADABLE as error:
            image = describe_unreadable(dataset_dict, error)
            raise UnreadableImageError(f"cannot read image {image}") from error
        if without_objects:
            sample["instances"] = self._no_instances(*sample["image"].shape[-2:])
        return sample

    def _fast(self, record: Record) -> Record | None:
        """Return a sample; None where Detectron2's way has to be gone."""
        if (
            self.image_format not in ("RGB", "BGR")
            or self.use_keypoint
            or self.proposal_topk is not None
            or "sem_seg_file_name" in record
        ):
            return None
        canvas = read_canvas(record["file_name"], exact=self.exact)
        if canvas is None:
            return None
        sample = {k: copy.deepcopy(v) for k, v in record.items() if k != "annotations"}
        utils.check_image_size(sample, np.broadcast_to(np.uint8(0), (*canvas.size, 3)))
        image, transforms = self._augment(canvas)
        sample["image"] = image
        if self.is_train and record.get("annotations") is not None:
            self._add_instances(sample, record["annotations"], transforms)
        return sample

    def _augment(self, canvas: Canvas) -> tuple[Tensor, TransformList]:
        """Return the image ``(3, H, W)`` after all augmentations, and what they were."""
        augmentations = self.augmentations.augs
        drawn, count = draw_from_shape(augmentations, canvas.size)
        canvas, applied = apply_known(canvas, drawn)
        if applied == len(drawn) and count == len(augmentations):
            image = canvas.tensor()
            return image.flip(0) if self.image_format == "BGR" else image, TransformList(drawn)
        pixels = canvas.array()
        aug_input = T.AugInput(pixels[:, :, ::-1] if self.image_format == "BGR" else pixels)
        for transform in drawn[applied:]:
            aug_input.transform(transform)
        rest = [augmentation(aug_input) for augmentation in augmentations[count:]]
        # (H, W, C) -> (C, H, W), in memory of its own: Pillow's is read-only
        chw = np.require(aug_input.image.transpose(2, 0, 1), requirements=["C", "W"])
        return torch.from_numpy(chw), TransformList([*drawn, *rest])

    def _add_instances(
        self, sample: Record, annotations: list[dict[str, Any]], transforms: TransformList
    ) -> None:
        image_size = (sample["image"].shape[1], sample["image"].shape[2])
        instances = None
        if type(self)._transform_annotations is _DETECTRON2S:
            kept = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
            options = InstanceOptions(
                masks=self.use_instance_mask,
                mask_format=self.instance_mask_format,
                recompute_boxes=self.recompute_boxes,
            )
            instances = build_instances(kept, transforms, image_size, options)
        if instances is not None:
            sample["instances"] = instances
            return
        # Someone else's method, or annotations of other kinds; both are changed on the way.
        sample["annotations"] = copy.deepcopy(annotations)
        self._transform_annotations(sample, transforms, image_size)

    def _no_instances(self, height: int, width: int) -> Instances:
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.zeros(0, 4))
        instances.gt_classes = torch.zeros(0, dtype=torch.int64)
        if self.use_instance_mask:
            as_bits = self.instance_mask_format == "bitmask"
            empty = torch.zeros(0, height, width, dtype=torch.bool)
            instances.gt_masks = BitMasks(empty) if as_bits else PolygonMasks([])
        return instances


_DETECTRON2S = detectron2_data.DatasetMapper._transform_annotations

# SPDX-License-Identifier: Apache-2.0
"""From a record to what models take: read, augment, build ``Instances``."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, PolygonMasks
from numpy.typing import NDArray

__all__ = ["DatasetMapper"]

logger = logging.getLogger(__name__)


class DatasetMapper:
    """The mapper of all recipes: objects with boxes and masks, without keypoints or proposals."""

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
    ) -> None:
        """Keep the choices.

        Args:
            is_train: keep annotations, as ``instances``.
            augmentations: applied first to last.
            image_format: as in :func:`detection_utils.read_image`.
            use_instance_mask: keep segmentations.
            use_keypoint: must be False.
            instance_mask_format: what segmentations become.
            keypoint_hflip_indices: must be None.
            precomputed_proposal_topk: must be None.
            recompute_boxes: take boxes from the transformed masks, which a crop has made smaller.

        Raises:
            ValueError: keypoints or proposals are asked for, boxes from masks without masks, or
                an unknown mask format.
        """
        if use_keypoint or keypoint_hflip_indices is not None or precomputed_proposal_topk:
            raise ValueError(
                "DatasetMapper: keypoints and precomputed proposals are not part of the bundled "
                "Detectron2 subset; leave them out, or install Detectron2"
            )
        if recompute_boxes and not use_instance_mask:
            raise ValueError("DatasetMapper: recompute_boxes=True needs use_instance_mask=True")
        if instance_mask_format not in ("polygon", "bitmask"):
            raise ValueError(
                "DatasetMapper: instance_mask_format must be 'polygon' or 'bitmask', "
                f"got {instance_mask_format!r}"
            )
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        # Read by the mappers of others that derive from this one.
        self.use_keypoint = False
        self.keypoint_hflip_indices = self.proposal_topk = None
        logger.info("%s mapper: %s", "training" if is_train else "test", self.augmentations.augs)

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Return the arguments that a yacs configuration holds.

        Args:
            cfg: the configuration.
            is_train: as in ``__init__``.
        """
        augmentations = utils.build_augmentation(cfg, is_train)
        crops = is_train and cfg.INPUT.CROP.ENABLED
        if crops:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "use_keypoint": cfg.MODEL.KEYPOINT_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            # Boxes of cropped objects are those of what is left.
            "recompute_boxes": crops and cfg.MODEL.MASK_ON,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return a sample.

        Args:
            dataset_dict: a record; it is not changed.

        Returns:
            The record with ``image`` (``(C, H, W)``, as read), in training with ``instances``
            instead of ``annotations``, otherwise with neither; with ``sem_seg`` (``(H, W)``,
            integers) instead of ``sem_seg_file_name``. ``height`` and ``width`` stay those of the
            image as read.

        Raises:
            DataError: the image cannot be read, or has another size than the record says.
        """
        sample = copy.deepcopy(dataset_dict)
        image = utils.read_image(sample["file_name"], format=self.image_format)
        utils.check_image_size(sample, image)

        aug_input = T.AugInput(image, sem_seg=_read_sem_seg(sample))
        transforms = self.augmentations(aug_input)
        image_size = aug_input.image.shape[:2]
        # (H, W, C) -> (C, H, W), in memory of its own: Pillow's is read-only
        chw = np.require(aug_input.image.transpose(2, 0, 1), requirements=["C", "W"])
        sample["image"] = torch.from_numpy(chw)
        if aug_input.sem_seg is not None:
            sample["sem_seg"] = torch.from_numpy(aug_input.sem_seg.astype(np.int64))

        if self.is_train and sample.get("annotations") is not None:
            self._transform_annotations(sample, transforms, image_size)
        sample.pop("annotations", None)
        return sample

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.Transform, image_shape: tuple[int, int]
    ) -> None:
        """Put ``instances`` in the place of ``annotations``; other people's mappers override it.

        Args:
            dataset_dict: the sample, changed in place.
            transforms: what was done to the image.
            image_shape: ``(height, width)`` after it.
        """
        kept = []
        for annotation in dataset_dict.pop("annotations"):
            if annotation.get("iscrowd", 0):
                continue
            annotation.pop("keypoints", None)
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
            kept.append(utils.transform_instance_annotations(annotation, transforms, image_shape))
        instances = utils.annotations_to_instances(kept, image_shape, self.instance_mask_format)
        if self.use_instance_mask and not kept:
            # An image without objects has masks too, none: heads and box recomputation ask for them
            empty = torch.zeros(0, *image_shape, dtype=torch.bool)
            as_bits = self.instance_mask_format == "bitmask"
            instances.gt_masks = BitMasks(empty) if as_bits else PolygonMasks([])
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)


def _read_sem_seg(sample: dict[str, Any]) -> NDArray[np.uint8] | None:
    """Take the file of semantic classes out of a sample, and return them as ``(H, W)``, if any.

    Args:
        sample: changed in place.

    Raises:
        DataError: the file cannot be read.
    """
    file_name = sample.pop("sem_seg_file_name", None)
    return None if file_name is None else utils.read_image(file_name, format="L")[:, :, 0]

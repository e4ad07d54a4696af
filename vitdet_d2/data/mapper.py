# SPDX-License-Identifier: Apache-2.0
"""Detectron2's mapper, for images without objects too, and with errors that name the image.

Detectron2's own stops with an ``AttributeError`` where boxes are recomputed from masks and an
image has none, and reports a damaged file without its name.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2 import data as detectron2_data
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from vitdet_d2.data.load_failures import UNREADABLE, UnreadableImageError, describe_unreadable


class DatasetMapper(detectron2_data.DatasetMapper):
    """Drop-in replacement of ``detectron2.data.DatasetMapper``, with the same arguments."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return a sample.

        Args:
            dataset_dict: a record; it is not changed.

        Returns:
            As Detectron2's; an image without objects, or with crowds only, gets empty
            ``instances`` in training.

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
            sample = super().__call__(dataset_dict)
        except UNREADABLE as error:
            image = describe_unreadable(dataset_dict, error)
            raise UnreadableImageError(f"cannot read image {image}") from error
        if without_objects:
            sample["instances"] = self._no_instances(*sample["image"].shape[-2:])
        return sample

    def _no_instances(self, height: int, width: int) -> Instances:
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.zeros(0, 4))
        instances.gt_classes = torch.zeros(0, dtype=torch.int64)
        if self.use_instance_mask:
            as_bits = self.instance_mask_format == "bitmask"
            empty = torch.zeros(0, height, width, dtype=torch.bool)
            instances.gt_masks = BitMasks(empty) if as_bits else PolygonMasks([])
        return instances

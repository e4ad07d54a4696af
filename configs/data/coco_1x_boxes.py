# SPDX-License-Identifier: Apache-2.0
"""COCO as `coco_1x`, for detectors without masks: annotations need no segmentation."""

from .coco_1x import data, dataloader

__all__ = ["data", "dataloader"]

dataloader.train.mapper.use_instance_mask = False
dataloader.evaluator.tasks = ["bbox"]

# SPDX-License-Identifier: Apache-2.0
"""COCO with large-scale jitter for detectors without masks: annotations need no segmentation.

A crop cuts boxes; with masks, they would shrink to what is left of the object.
"""

from .coco_lsj import data, dataloader

__all__ = ["data", "dataloader"]

dataloader.train.mapper.update(use_instance_mask=False, recompute_boxes=False)
dataloader.evaluator.tasks = ["bbox"]

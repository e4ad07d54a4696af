# SPDX-License-Identifier: Apache-2.0
"""Cascade R-CNN on ViT-B with the simple feature pyramid: without the mask head.

A recipe of another size takes `model.roi_heads`. Its data: `configs/data/coco_lsj_boxes.py`.

Source: Cascade R-CNN, arXiv 1712.00726; ViTDet, arXiv 2203.16527.
"""

from .cascade_mask_rcnn_vitdet import model

__all__ = ["model"]

for _name in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[_name]

# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN on ViT-B with the simple feature pyramid: Mask R-CNN without the mask head.

A recipe of another size takes `model.roi_heads`. Its data: `configs/data/coco_lsj_boxes.py`.

Source: Faster R-CNN, arXiv 1506.01497; ViTDet, arXiv 2203.16527.
"""

from .mask_rcnn_vitdet import model

__all__ = ["model"]

for _name in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[_name]

# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN on MViTv2-B of timm with FPN; a delta of cascade_mask_rcnn_swin.

The class token of timm's model is left out, and blocks attend in hybrid windows, as in the
detectors of MViTv2.

Source: MViTv2, arXiv 2112.01526, section 4.2; the values of Detectron2's
`projects/ViTDet/configs/COCO/cascade_mask_rcnn_mvitv2_b_in21k_100ep.py`.
"""

from .cascade_mask_rcnn_swin import model

model.backbone.bottom_up.update(name="mvitv2_base_cls", window_size=56)
model.backbone.bottom_up.out_norm.eps = 1e-6
model.backbone.in_features = ["block.0", "block.1", "block.2", "block.3"]

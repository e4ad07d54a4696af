# SPDX-License-Identifier: Apache-2.0
"""Cascade Mask R-CNN on ViT-B with the simple feature pyramid.

Three box heads in a row, class-agnostic in their boxes, under IoU 0.5, 0.6, 0.7. A recipe of
another size takes `model.roi_heads`.

Source: Cascade R-CNN, arXiv 1712.00726; ViTDet, arXiv 2203.16527; the values of Detectron2's
`projects/ViTDet/configs/COCO/cascade_mask_rcnn_vitdet_b_100ep.py`.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from vitdet_d2.heads import CascadeROIHeads, FastRCNNOutputLayers

from .mask_rcnn_vitdet import model

_IOUS = [0.5, 0.6, 0.7]
# Each stage moves boxes less: its deltas are scaled up to the same spread.
_BOX_WEIGHTS = [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]

for _name in ("box_head", "box_predictor", "proposal_matcher"):
    del model.roi_heads[_name]
model.roi_heads.update(
    _target_=CascadeROIHeads,
    box_heads=[
        L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(256, 7, 7),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm="LN",
        )
        for _ in _IOUS
    ],
    box_predictors=[
        L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=1024),
            test_score_thresh=0.05,
            box2box_transform=L(Box2BoxTransform)(weights=weights),
            cls_agnostic_bbox_reg=True,
            num_classes="${...num_classes}",
        )
        for weights in _BOX_WEIGHTS
    ],
    proposal_matchers=[
        L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)
        for iou in _IOUS
    ],
)

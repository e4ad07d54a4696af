# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN over strides 4 to 64, as Detectron2's `mask_rcnn_fpn`; the backbone is left open."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from vitdet_d2.heads import (
    RPN,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    ROIPooler,
    StandardROIHeads,
)

_STRIDES, _WIDTH = [4, 8, 16, 32, 64], 256
_ROI_LEVELS = ["p2", "p3", "p4", "p5"]

_SCALES = [1 / stride for stride in _STRIDES[: len(_ROI_LEVELS)]]
_POOLER = {"scales": _SCALES, "sampling_ratio": 0, "pooler_type": "ROIAlignV2"}

model = L(GeneralizedRCNN)(
    backbone=None,
    proposal_generator=L(RPN)(
        in_features=[*_ROI_LEVELS, "p6"],
        head=L(StandardRPNHead)(in_channels=_WIDTH, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[8 * stride] for stride in _STRIDES],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=_STRIDES,
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(2000, 1000),  # in training, at test
        post_nms_topk=(1000, 1000),
        nms_thresh=0.7,
        pad_proposals=True,  # for heads of vitdet_d2.heads; training switches it off for others
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=_ROI_LEVELS,
        box_pooler=L(ROIPooler)(output_size=7, **_POOLER),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=ShapeSpec(_WIDTH, 7, 7),
            conv_dims=[],
            fc_dims=[1024] * 2,
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=1024),
            test_score_thresh=0.05,
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes="${..num_classes}",
        ),
        mask_in_features=_ROI_LEVELS,
        mask_pooler=L(ROIPooler)(output_size=14, **_POOLER),
        mask_head=L(MaskRCNNConvUpsampleHead)(  # four convolutions and the deconvolution
            input_shape=ShapeSpec(_WIDTH, 14, 14),
            num_classes="${..num_classes}",
            conv_dims=[256] * 5,
        ),
    ),
    pixel_mean=[123.675, 116.28, 103.53],  # of ImageNet, RGB, 0 to 255
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)

# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN on a feature pyramid. Values of Detectron2's ``common/models/mask_rcnn_fpn.py``.

The ResNet stands by name only: it is not bundled, and ViTDet replaces it. Building this model as
it is needs an installed Detectron2.
"""

from __future__ import annotations

from detectron2.config import LazyCall
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from omegaconf import DictConfig

from ..data.constants import constants

_CHANNELS = 256
_STRIDES = (4, 8, 16, 32)
_LEVELS = ["p2", "p3", "p4", "p5"]


def _pooler(output_size: int) -> DictConfig:
    return LazyCall(ROIPooler)(
        output_size=output_size,
        scales=tuple(1.0 / stride for stride in _STRIDES),
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    )


_resnet = LazyCall("detectron2.modeling.ResNet")(
    stem=LazyCall("detectron2.modeling.backbone.BasicStem")(
        in_channels=3, out_channels=64, norm="FrozenBN"
    ),
    stages=LazyCall("detectron2.modeling.ResNet.make_default_stages")(
        depth=50, stride_in_1x1=True, norm="FrozenBN"
    ),
    out_features=["res2", "res3", "res4", "res5"],
)

_proposal_generator = LazyCall(RPN)(
    in_features=[*_LEVELS, "p6"],
    head=LazyCall(StandardRPNHead)(in_channels=_CHANNELS, num_anchors=3),
    anchor_generator=LazyCall(DefaultAnchorGenerator)(
        sizes=[[32], [64], [128], [256], [512]],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[*_STRIDES, 64],
        offset=0.0,
    ),
    anchor_matcher=LazyCall(Matcher)(
        thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
    ),
    box2box_transform=LazyCall(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    batch_size_per_image=256,
    positive_fraction=0.5,
    # (training, testing)
    pre_nms_topk=(2000, 1000),
    post_nms_topk=(1000, 1000),
    nms_thresh=0.7,
)

_roi_heads = LazyCall(StandardROIHeads)(
    num_classes=80,
    batch_size_per_image=512,
    positive_fraction=0.25,
    proposal_matcher=LazyCall(Matcher)(
        thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
    ),
    box_in_features=list(_LEVELS),
    box_pooler=_pooler(7),
    box_head=LazyCall(FastRCNNConvFCHead)(
        input_shape=ShapeSpec(channels=_CHANNELS, height=7, width=7),
        conv_dims=[],
        fc_dims=[1024, 1024],
    ),
    box_predictor=LazyCall(FastRCNNOutputLayers)(
        input_shape=ShapeSpec(channels=1024),
        test_score_thresh=0.05,
        box2box_transform=LazyCall(Box2BoxTransform)(weights=(10, 10, 5, 5)),
        num_classes="${..num_classes}",
    ),
    mask_in_features=list(_LEVELS),
    mask_pooler=_pooler(14),
    mask_head=LazyCall(MaskRCNNConvUpsampleHead)(
        input_shape=ShapeSpec(channels=_CHANNELS, width=14, height=14),
        num_classes="${..num_classes}",
        conv_dims=[256] * 5,
    ),
)

model = LazyCall(GeneralizedRCNN)(
    backbone=LazyCall(FPN)(
        bottom_up=_resnet,
        in_features="${.bottom_up.out_features}",
        out_channels=_CHANNELS,
        top_block=LazyCall(LastLevelMaxPool)(),
    ),
    proposal_generator=_proposal_generator,
    roi_heads=_roi_heads,
    pixel_mean=constants["imagenet_bgr256_mean"],
    pixel_std=constants["imagenet_bgr256_std"],
    input_format="BGR",
)

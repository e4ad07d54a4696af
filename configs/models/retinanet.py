# SPDX-License-Identifier: Apache-2.0
"""RetinaNet over strides 8 to 128, as Detectron2's `retinanet`; the backbone is left open."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

_STRIDES = [8, 16, 32, 64, 128]
_WIDTH = 256
_OCTAVES = [2 ** (i / 3) for i in range(3)]  # of anchor sizes on every map

model = L(RetinaNet)(
    backbone=None,
    head=L(RetinaNetHead)(
        input_shape=[ShapeSpec(channels=_WIDTH)] * len(_STRIDES),
        num_classes="${..num_classes}",
        num_anchors=9,  # octaves times aspect ratios
        conv_dims=[_WIDTH] * 4,
        norm="",
        prior_prob=0.01,
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[4 * stride * octave for octave in _OCTAVES] for stride in _STRIDES],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=_STRIDES,
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=L(Matcher)(
        thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True
    ),
    num_classes=80,
    focal_loss_alpha=0.25,
    focal_loss_gamma=2.0,
    smooth_l1_beta=0.0,  # plain L1
    box_reg_loss_type="smooth_l1",
    test_score_thresh=0.05,
    test_topk_candidates=1000,  # of each map
    test_nms_thresh=0.5,
    max_detections_per_image=100,
    pixel_mean=[123.675, 116.28, 103.53],  # of ImageNet, RGB, 0 to 255
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)

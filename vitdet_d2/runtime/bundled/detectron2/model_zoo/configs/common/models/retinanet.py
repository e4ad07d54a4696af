# SPDX-License-Identifier: Apache-2.0
"""RetinaNet on a feature pyramid. Values of Detectron2's ``common/models/retinanet.py``.

The ResNet stands by name only, as in ``mask_rcnn_fpn.py``.
"""

from __future__ import annotations

from detectron2.config import LazyCall
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

from ..data.constants import constants

_CHANNELS = 256
_STRIDES = [8, 16, 32, 64, 128]
_OCTAVES = [1, 2 ** (1.0 / 3), 2 ** (2.0 / 3)]
_STAGES = ["res3", "res4", "res5"]

_resnet = LazyCall("detectron2.modeling.ResNet")(
    stem=LazyCall("detectron2.modeling.backbone.BasicStem")(
        in_channels=3, out_channels=64, norm="FrozenBN"
    ),
    stages=LazyCall("detectron2.modeling.ResNet.make_default_stages")(
        depth=50, stride_in_1x1=True, norm="FrozenBN"
    ),
    out_features=list(_STAGES),
)

model = LazyCall(RetinaNet)(
    backbone=LazyCall(FPN)(
        bottom_up=_resnet,
        in_features=list(_STAGES),
        out_channels=_CHANNELS,
        top_block=LazyCall(LastLevelP6P7)(in_channels=2048, out_channels="${..out_channels}"),
    ),
    head=LazyCall(RetinaNetHead)(
        input_shape=[ShapeSpec(channels=_CHANNELS)] * len(_STRIDES),
        num_classes="${..num_classes}",
        conv_dims=[256] * 4,
        prior_prob=0.01,
        num_anchors=9,
    ),
    anchor_generator=LazyCall(DefaultAnchorGenerator)(
        sizes=[[4 * stride * octave for octave in _OCTAVES] for stride in _STRIDES],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=_STRIDES,
        offset=0.0,
    ),
    box2box_transform=LazyCall(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=LazyCall(Matcher)(
        thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True
    ),
    num_classes=80,
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    focal_loss_alpha=0.25,
    focal_loss_gamma=2.0,
    pixel_mean=constants["imagenet_bgr256_mean"],
    pixel_std=constants["imagenet_bgr256_std"],
    input_format="BGR",
)

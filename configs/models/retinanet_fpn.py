# SPDX-License-Identifier: Apache-2.0
"""RetinaNet on a feature pyramid of the maps at strides 8, 16 and 32; the bottom-up is left open.

A recipe sets `model.backbone.bottom_up` (whose maps are `res3`, `res4`, `res5`, or as in
`model.backbone.in_features`) and `model.backbone.top_block.in_channels`, the channels of its last
map, from which P6 and P7 are made.

Source: RetinaNet, arXiv 1708.02002, section 4.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7

from .retinanet import model

model.backbone = L(FPN)(
    bottom_up=None,
    in_features=["res3", "res4", "res5"],
    out_channels=256,
    norm="",
    top_block=L(LastLevelP6P7)(
        in_channels=None,
        out_channels="${..out_channels}",
        in_feature="${..in_features[2]}",
    ),
)

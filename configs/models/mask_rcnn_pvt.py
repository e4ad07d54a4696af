# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN on PVT-Small with an FPN, strides 4 to 64.

Source: PVT, arXiv 2102.12122, section 4.2.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool

from .mask_rcnn import model
from .pvt import pvt

__all__ = ["model"]

model.backbone = L(FPN)(
    bottom_up=pvt,
    in_features="${.bottom_up.out_features}",
    out_channels=256,
    norm="",
    top_block=L(LastLevelMaxPool)(),
)

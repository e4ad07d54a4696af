# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN on PVT v2 b2 with an FPN, strides 4 to 64.

Source: PVT v2, arXiv 2106.13797, section 4.2.
"""

from .mask_rcnn_pvt import model
from .pvt import pvt_v2

__all__ = ["model"]

model.backbone.bottom_up = pvt_v2

# SPDX-License-Identifier: Apache-2.0
"""RetinaNet on PVT v2 b2 with an FPN from stride 8; two more levels from the last stage's map.

Source: PVT v2, arXiv 2106.13797, section 4.2.
"""

from .pvt import pvt_v2
from .retinanet_pvt import model

__all__ = ["model"]

pvt_v2.out_features = list(model.backbone.bottom_up.out_features)
model.backbone.bottom_up = pvt_v2

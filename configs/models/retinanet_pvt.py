# SPDX-License-Identifier: Apache-2.0
"""RetinaNet on PVT-Small with an FPN from stride 8; two more levels from the last stage's map.

Source: PVT, arXiv 2102.12122, section 4.2.
"""

from .pvt import pvt
from .retinanet_fpn import model

__all__ = ["model"]

pvt.out_features = list(model.backbone.in_features)
model.backbone.bottom_up = pvt
model.backbone.top_block.in_channels = "${..bottom_up.embed_dims.3}"

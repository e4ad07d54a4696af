# SPDX-License-Identifier: Apache-2.0
"""Published accuracy of PVT v1 and v2 in detectors, COCO val2017, "1x" (12 epochs), by recipe.

Source: the table in `detection/README.md` of github.com/whai362/PVT at 57e2dfa; of the ablations
PVT, arXiv 2102.12122, tables 9 and 11, and the gap that its section 5.5 states (40.4 - 13.8).
"""

from __future__ import annotations

from collections.abc import Mapping

PRETRAINING = "IN1K, sup"
SCHEDULE = "12 ep"

# Recipe -> box AP, and mask AP where the detector has masks.
PVT_AP: Mapping[str, tuple[float, float | None]] = {
    "retinanet_pvt_tiny": (36.7, None),
    "retinanet_pvt_small": (40.4, None),
    "retinanet_pvt_medium": (41.9, None),
    "retinanet_pvt_large": (42.6, None),
    "mask_rcnn_pvt_tiny": (36.7, 35.1),
    "mask_rcnn_pvt_small": (40.4, 37.8),
    "mask_rcnn_pvt_medium": (42.0, 39.0),
    "mask_rcnn_pvt_large": (42.9, 39.5),
    "retinanet_pvt_v2_b0": (37.2, None),
    "retinanet_pvt_v2_b1": (41.2, None),
    "retinanet_pvt_v2_b2": (44.6, None),
    "retinanet_pvt_v2_b2_li": (43.6, None),
    "retinanet_pvt_v2_b3": (45.9, None),
    "retinanet_pvt_v2_b4": (46.1, None),
    "retinanet_pvt_v2_b5": (46.2, None),
    "mask_rcnn_pvt_v2_b0": (38.2, 36.2),
    "mask_rcnn_pvt_v2_b1": (41.8, 38.8),
    "mask_rcnn_pvt_v2_b2": (45.3, 41.2),
    "mask_rcnn_pvt_v2_b2_li": (44.1, 40.5),
    "mask_rcnn_pvt_v2_b3": (47.0, 42.5),
    "mask_rcnn_pvt_v2_b4": (47.5, 42.7),
    "mask_rcnn_pvt_v2_b5": (47.4, 42.5),
    "ablation/pvt_deeper": (41.9, None),
    "ablation/pvt_wider": (40.8, None),
    "ablation/pvt_640": (38.7, None),
    "ablation/pvt_scratch": (26.6, None),
    "ablation/pvt_r_8_4_2_1": (26.6, None),  # the same recipe
}
# Rows of the table above that no pre-training stands behind.
FROM_SCRATCH = ("ablation/pvt_scratch", "ablation/pvt_r_8_4_2_1")

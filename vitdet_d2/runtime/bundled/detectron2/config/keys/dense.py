# SPDX-License-Identifier: Apache-2.0
"""What RetinaNet reads."""

from __future__ import annotations

from typing import Any

RETINANET: dict[str, Any] = {
    "NUM_CLASSES": 80,
    "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "NUM_CONVS": 4,  # hidden convolutions of each tower
    "NORM": "",  # BN and SyncBN: statistics for each map
    "PRIOR_PROB": 0.01,  # score of every class at the beginning
    # IoU below the first is background (0), above the second an object (1), between: ignored (-1).
    "IOU_THRESHOLDS": [0.4, 0.5],
    "IOU_LABELS": [0, -1, 1],
    "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),  # scale of dx, dy, dw, dh
    "BBOX_REG_LOSS_TYPE": "smooth_l1",  # or "giou", "diou", "ciou"
    "SMOOTH_L1_LOSS_BETA": 0.1,  # 0: plain L1
    "FOCAL_LOSS_ALPHA": 0.25,
    "FOCAL_LOSS_GAMMA": 2.0,
    # Before non-maximum suppression, for each map, and its IoU.
    "SCORE_THRESH_TEST": 0.05,
    "TOPK_CANDIDATES_TEST": 1000,
    "NMS_THRESH_TEST": 0.5,
}

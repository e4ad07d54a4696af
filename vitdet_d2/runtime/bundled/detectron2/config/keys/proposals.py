# SPDX-License-Identifier: Apache-2.0
"""What anchors and the region proposal network read.

The values suit a single stride-16 map; pyramids set their own.
"""

from __future__ import annotations

from typing import Any

ANCHOR_GENERATOR: dict[str, Any] = {
    "NAME": "DefaultAnchorGenerator",  # ANCHOR_GENERATOR_REGISTRY
    # One list for all maps, or one for each.
    "SIZES": [[32, 64, 128, 256, 512]],  # roots of areas, in pixels
    "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],  # height / width
    "OFFSET": 0.0,  # of the first anchor, in strides
    "ANGLES": [[-90, 0, 90]],  # of rotated anchors (not bundled), in degrees
}

PROPOSAL_GENERATOR: dict[str, Any] = {
    "NAME": "RPN",  # PROPOSAL_GENERATOR_REGISTRY; PrecomputedProposals: none
    "MIN_SIZE": 0,  # shorter proposals are dropped, in pixels
}

RPN: dict[str, Any] = {
    "HEAD_NAME": "StandardRPNHead",  # RPN_HEAD_REGISTRY
    "IN_FEATURES": ["res4"],
    "CONV_DIMS": [-1],  # channels of the hidden convolutions; -1: those of the input
    "BOUNDARY_THRESH": -1,  # read by old files only
    # IoU below the first is background (0), above the second an object (1), between: ignored (-1).
    "IOU_THRESHOLDS": [0.3, 0.7],
    "IOU_LABELS": [0, -1, 1],
    "BATCH_SIZE_PER_IMAGE": 256,  # anchors in the loss
    "POSITIVE_FRACTION": 0.5,  # at most this share of them is objects
    "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),  # scale of dx, dy, dw, dh
    "BBOX_REG_LOSS_TYPE": "smooth_l1",  # or "giou", "diou", "ciou"
    "BBOX_REG_LOSS_WEIGHT": 1.0,
    "SMOOTH_L1_BETA": 0.0,  # 0: plain L1
    "LOSS_WEIGHT": 1.0,  # of both losses
    # Before non-maximum suppression for each map, after it for each image.
    "PRE_NMS_TOPK_TRAIN": 12000,
    "PRE_NMS_TOPK_TEST": 6000,
    "POST_NMS_TOPK_TRAIN": 2000,
    "POST_NMS_TOPK_TEST": 1000,
    "NMS_THRESH": 0.7,
}

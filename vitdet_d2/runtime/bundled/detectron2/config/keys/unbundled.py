# SPDX-License-Identifier: Apache-2.0
"""Keys of parts that are not bundled: other people's files set them, nothing here reads them.

Only the switches are looked at, so that switching such a part on is refused by name.
"""

from __future__ import annotations

from typing import Any

# Switches beside the parts in MODEL.
SWITCHES: dict[str, Any] = {"KEYPOINT_ON": False, "LOAD_PROPOSALS": False}

ROI_KEYPOINT_HEAD: dict[str, Any] = {
    "NAME": "KRCNNConvDeconvUpsampleHead",
    "NUM_KEYPOINTS": 17,
    "CONV_DIMS": (512,) * 8,
    "POOLER_RESOLUTION": 14,
    "POOLER_SAMPLING_RATIO": 0,
    "POOLER_TYPE": "ROIAlignV2",
    "MIN_KEYPOINTS_PER_IMAGE": 1,
    "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,
    "LOSS_WEIGHT": 1.0,
}

SEM_SEG_HEAD: dict[str, Any] = {
    "NAME": "SemSegFPNHead",
    "NUM_CLASSES": 54,
    "IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "CONVS_DIM": 128,
    "COMMON_STRIDE": 4,
    "NORM": "GN",
    "IGNORE_VALUE": 255,
    "LOSS_WEIGHT": 1.0,
}

PANOPTIC_FPN: dict[str, Any] = {
    "INSTANCE_LOSS_WEIGHT": 1.0,
    "COMBINE": {
        "ENABLED": True,
        "OVERLAP_THRESH": 0.5,
        "STUFF_AREA_LIMIT": 4096,
        "INSTANCES_CONFIDENCE_THRESH": 0.5,
    },
}

RESNETS: dict[str, Any] = {
    "DEPTH": 50,
    "OUT_FEATURES": ["res4"],
    "NORM": "FrozenBN",
    "NUM_GROUPS": 1,
    "WIDTH_PER_GROUP": 64,
    "STEM_OUT_CHANNELS": 64,
    "RES2_OUT_CHANNELS": 256,
    "STRIDE_IN_1X1": True,
    "RES5_DILATION": 1,
    "DEFORM_ON_PER_STAGE": [False, False, False, False],
    "DEFORM_MODULATED": False,
    "DEFORM_NUM_GROUPS": 1,
}

# SPDX-License-Identifier: Apache-2.0
"""What heads on regions read."""

from __future__ import annotations

from typing import Any

ROI_HEADS: dict[str, Any] = {
    "NAME": "Res5ROIHeads",  # ROI_HEADS_REGISTRY; the default itself is not bundled
    "NUM_CLASSES": 80,  # without the background
    "IN_FEATURES": ["res4"],
    "IOU_THRESHOLDS": [0.5],
    "IOU_LABELS": [0, 1],
    "BATCH_SIZE_PER_IMAGE": 512,  # proposals in the loss
    "POSITIVE_FRACTION": 0.25,
    "PROPOSAL_APPEND_GT": True,  # ground truth is proposed too, in training
    "SCORE_THRESH_TEST": 0.05,
    "NMS_THRESH_TEST": 0.5,
}

ROI_BOX_HEAD: dict[str, Any] = {
    "NAME": "",  # ROI_BOX_HEAD_REGISTRY
    "NUM_CONV": 0,
    "CONV_DIM": 256,
    "NUM_FC": 0,
    "FC_DIM": 1024,
    "NORM": "",
    "POOLER_RESOLUTION": 14,
    "POOLER_SAMPLING_RATIO": 0,  # 0: as many as the bin has pixels
    "POOLER_TYPE": "ROIAlignV2",
    "CLS_AGNOSTIC_BBOX_REG": False,  # one box for all classes
    "TRAIN_ON_PRED_BOXES": False,  # the mask head sees predicted boxes
    "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "BBOX_REG_LOSS_TYPE": "smooth_l1",
    "BBOX_REG_LOSS_WEIGHT": 1.0,
    "SMOOTH_L1_BETA": 0.0,
    # LVIS: sigmoid cross-entropy over a sample of classes, drawn by frequency to this power.
    "USE_FED_LOSS": False,
    "USE_SIGMOID_CE": False,
    "FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
    "FED_LOSS_NUM_CLASSES": 50,
}

# One entry per stage in both.
ROI_BOX_CASCADE_HEAD: dict[str, Any] = {
    "IOUS": (0.5, 0.6, 0.7),
    # Later stages move boxes less: their deltas are scaled up to the same spread.
    "BBOX_REG_WEIGHTS": tuple((s, s, s / 2, s / 2) for s in (10.0, 20.0, 30.0)),
}

ROI_MASK_HEAD: dict[str, Any] = {
    "NAME": "MaskRCNNConvUpsampleHead",  # ROI_MASK_HEAD_REGISTRY
    "NUM_CONV": 0,
    "CONV_DIM": 256,
    "NORM": "",
    "POOLER_RESOLUTION": 14,
    "POOLER_SAMPLING_RATIO": 0,
    "POOLER_TYPE": "ROIAlignV2",
    "CLS_AGNOSTIC_MASK": False,
}

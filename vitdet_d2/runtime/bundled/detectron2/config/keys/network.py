# SPDX-License-Identifier: Apache-2.0
"""What the whole model, the backbone and the feature pyramid read."""

from __future__ import annotations

from typing import Any

MODEL: dict[str, Any] = {
    "META_ARCHITECTURE": "GeneralizedRCNN",  # META_ARCH_REGISTRY
    "DEVICE": "cuda",
    "WEIGHTS": "",  # path or address of a checkpoint; empty for none
    "MASK_ON": False,
    # In the order of INPUT.FORMAT. ImageNet's mean, for backbones of the Caffe family, which have
    # the deviation in their first layer.
    "PIXEL_MEAN": [103.530, 116.280, 123.675],
    "PIXEL_STD": [1.0, 1.0, 1.0],
}

BACKBONE: dict[str, Any] = {
    "NAME": "build_resnet_backbone",  # BACKBONE_REGISTRY; the default itself is not bundled
    "FREEZE_AT": 2,  # stages of a ResNet without training
}

FPN: dict[str, Any] = {
    "IN_FEATURES": [],  # names of the backbone's maps, from fine to coarse
    "OUT_CHANNELS": 256,
    "NORM": "",
    "FUSE_TYPE": "sum",  # or "avg"
}

# SPDX-License-Identifier: Apache-2.0
"""ImageNet's colour statistics in 0 to 255. Values of Detectron2's ``common/data/constants.py``."""

from __future__ import annotations

_RGB_MEAN = [123.675, 116.28, 103.53]
_RGB_STD = [58.395, 57.12, 57.375]

constants = {
    "imagenet_rgb256_mean": _RGB_MEAN,
    "imagenet_rgb256_std": _RGB_STD,
    "imagenet_bgr256_mean": _RGB_MEAN[::-1],
    # The BGR models of Detectron and MSRA carry the deviation in their first convolution.
    "imagenet_bgr256_std": [1.0, 1.0, 1.0],
}

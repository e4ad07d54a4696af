# SPDX-License-Identifier: Apache-2.0
"""PVT-Small and PVT v2 b2 with all four maps: what detectors on PVT stand on.

Source: PVT, arXiv 2102.12122, and PVT v2, arXiv 2106.13797; drop path as in the detection classes
of github.com/whai362/PVT.
"""

from detectron2.config import LazyCall as L

from vitdet_d2.backbones import PVT, PVTv2, pvt_arguments, pvt_v2_arguments

_COMMON = {
    "qkv_bias": True,
    "drop_path_rate": 0.1,
    "out_features": ["res2", "res3", "res4", "res5"],
    "frozen_stages": 0,
    "use_act_checkpoint": False,
}

pvt = L(PVT)(**pvt_arguments("small"), **_COMMON, pretrain_img_size=224)
pvt_v2 = L(PVTv2)(**pvt_v2_arguments("b2"), **_COMMON)

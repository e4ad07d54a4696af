# SPDX-License-Identifier: Apache-2.0
"""Detection backbones: modules that turn an image into feature maps.

Importing this package enters them into Detectron2's registry, as Detectron2's own backbones do.
"""

from vitdet_d2.backbones.mit import MiT
from vitdet_d2.backbones.pvt import PVT
from vitdet_d2.backbones.pvt_sizes import mit_arguments, pvt_arguments, pvt_v2_arguments
from vitdet_d2.backbones.pvt_v2 import PVTv2
from vitdet_d2.backbones.registration import register_backbones
from vitdet_d2.backbones.sizes import VIT_SIZES, ViTSize, vit_arguments
from vitdet_d2.backbones.timm_backbone import TimmBackbone
from vitdet_d2.backbones.timm_models import pixel_statistics
from vitdet_d2.backbones.vit import ViT
from vitdet_d2.backbones.yacs_options import add_vitdet_config

__all__ = [
    "PVT",
    "VIT_SIZES",
    "MiT",
    "PVTv2",
    "TimmBackbone",
    "ViT",
    "ViTSize",
    "add_vitdet_config",
    "mit_arguments",
    "pixel_statistics",
    "pvt_arguments",
    "pvt_v2_arguments",
    "register_backbones",
    "vit_arguments",
]

register_backbones()

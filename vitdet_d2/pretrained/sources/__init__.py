# SPDX-License-Identifier: Apache-2.0
"""The sources of pre-trained encoders, in the order in which files are compared with them."""

from __future__ import annotations

from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.beit import BEIT
from vitdet_d2.pretrained.sources.clip import CLIP, OPEN_CLIP
from vitdet_d2.pretrained.sources.dino import DINO
from vitdet_d2.pretrained.sources.dinov2 import DINOV2, DINOV2_PLAIN, GATED
from vitdet_d2.pretrained.sources.dinov3 import DINOV3, DINOV3_SAT
from vitdet_d2.pretrained.sources.eva01 import EVA01
from vitdet_d2.pretrained.sources.eva02 import EVA02
from vitdet_d2.pretrained.sources.google import GOOGLE
from vitdet_d2.pretrained.sources.hugging_face import HUGGING_FACE
from vitdet_d2.pretrained.sources.ibot import IBOT
from vitdet_d2.pretrained.sources.ijepa import IJEPA, IJEPA_ENCODER
from vitdet_d2.pretrained.sources.mae import MAE, MAE_ENCODER, MAE_FINE_TUNED
from vitdet_d2.pretrained.sources.moco_v3 import MOCO_V3, MOCO_V3_ENCODER
from vitdet_d2.pretrained.sources.msn import MSN
from vitdet_d2.pretrained.sources.plain import PLAIN
from vitdet_d2.pretrained.sources.pvt import PVT
from vitdet_d2.pretrained.sources.pvt_v2 import PVT_V2_LAYOUTS
from vitdet_d2.pretrained.sources.sam import SAM
from vitdet_d2.pretrained.sources.siglip import SIGLIP, TIMM_TOWER
from vitdet_d2.pretrained.sources.supervised import AUGREG, DEIT, DEIT3
from vitdet_d2.pretrained.sources.unsupported import DEIT3_OR_ROTARY

# Most specific first: the first whose keys match decides.
SOURCES: tuple[Source, ...] = (
    GOOGLE,
    PVT,
    *PVT_V2_LAYOUTS,
    MAE,
    MOCO_V3,
    DINO,
    IBOT,
    MSN,
    IJEPA,
    DINOV3,
    DINOV3_SAT,
    DINOV2,
    SAM,
    OPEN_CLIP,
    CLIP,
    SIGLIP,
    *BEIT,
    EVA02,
    EVA01,
    *HUGGING_FACE,
    TIMM_TOWER,
    DEIT,
    DEIT3_OR_ROTARY,
    DEIT3,
    AUGREG,
    # These look at values, or are told by what others may have too.
    MAE_ENCODER,
    MOCO_V3_ENCODER,
    IJEPA_ENCODER,
    MAE_FINE_TUNED,
    GATED,
    PLAIN,
    DINOV2_PLAIN,
)

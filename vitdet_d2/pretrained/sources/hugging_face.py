# SPDX-License-Identifier: Apache-2.0
"""The layouts of transformers, in the order in which files are compared with them."""

from __future__ import annotations

from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.hugging_face_beit import HUGGING_FACE_BEIT
from vitdet_d2.pretrained.sources.hugging_face_clip import (
    HUGGING_FACE_CLIP,
    HUGGING_FACE_OPENCLIP,
)
from vitdet_d2.pretrained.sources.hugging_face_dinov2 import HUGGING_FACE_DINOV2
from vitdet_d2.pretrained.sources.hugging_face_dinov3 import (
    HUGGING_FACE_DINOV3,
    HUGGING_FACE_DINOV3_SAT,
)
from vitdet_d2.pretrained.sources.hugging_face_pvt import (
    HUGGING_FACE_PVT,
    HUGGING_FACE_PVT_V2,
    HUGGING_FACE_SEGFORMER,
)
from vitdet_d2.pretrained.sources.hugging_face_sam import HUGGING_FACE_SAM
from vitdet_d2.pretrained.sources.hugging_face_vit import (
    HUGGING_FACE_DEIT,
    HUGGING_FACE_IJEPA,
    HUGGING_FACE_VIT,
    HUGGING_FACE_VIT_MAE,
)
from vitdet_d2.pretrained.sources.hugging_face_vitdet import HUGGING_FACE_VITDET

# Their stems are like no other's; the plain ViT is what is left.
HUGGING_FACE: tuple[Source, ...] = (
    HUGGING_FACE_PVT,
    HUGGING_FACE_PVT_V2,
    HUGGING_FACE_SEGFORMER,
    HUGGING_FACE_BEIT,
    HUGGING_FACE_DINOV2,
    HUGGING_FACE_DINOV3,
    HUGGING_FACE_DINOV3_SAT,
    HUGGING_FACE_CLIP,
    HUGGING_FACE_OPENCLIP,
    HUGGING_FACE_SAM,
    HUGGING_FACE_VITDET,
    HUGGING_FACE_VIT_MAE,
    HUGGING_FACE_DEIT,
    HUGGING_FACE_IJEPA,
    HUGGING_FACE_VIT,
)

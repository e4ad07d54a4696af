# SPDX-License-Identifier: Apache-2.0
"""SigLIP as timm stores it, alone or as a tower of OpenCLIP: a plain ViT without a class token.

timm runs it with the exact GELU, and was trained in JAX with GELU's tanh approximation.

Source: timm, ``vit_*_siglip_*``; google-research/big_vision, ``models/proj/image_text``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import HALF
from vitdet_d2.pretrained.source import Needs, Source
from vitdet_d2.pretrained.sources.clip import BESIDE_TOWER
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS

# The token that pools the patches is a head of its own.
TABLE: KeyTable = {**ENCODER, **HEADS, "attn_pool.{rest}": None}


def _matches(file: Unwrapped) -> bool:
    pooled = {"patch_embed.proj.weight", "attn_pool.latent"} <= file.state.keys()
    return pooled and "cls_token" not in file.state


def _no_class_token(file: Unwrapped) -> int:  # noqa: ARG001
    return 0


def _needs(file: Unwrapped) -> Needs:  # noqa: ARG001
    return Needs(act="gelu_tanh")


SIGLIP = Source(
    name="siglip",
    title="SigLIP",
    matches=_matches,
    table=TABLE,
    beside=BESIDE_TOWER,
    normalisation=HALF,
    num_prefix=_no_class_token,
    needs=_needs,
    heads={384: 6, 768: 12, 1024: 16, 1152: 16, 1536: 16},
)

# SPDX-License-Identifier: Apache-2.0
"""SigLIP as timm stores it, alone or as a tower of OpenCLIP, and other such towers.

A plain ViT without a class token. It was trained in JAX with GELU's tanh approximation; timm runs
it with the exact one.

Source: timm, ``vit_*_siglip_*``; google-research/big_vision, ``models/proj/image_text``.
"""

from __future__ import annotations

import dataclasses

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import HALF
from vitdet_d2.pretrained.source import Needs, Source
from vitdet_d2.pretrained.sources.clip import BESIDE_TOWER
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS, PLAIN, PLAIN_ORIGINS

# The token that pools the patches is a head of its own.
TABLE: KeyTable = {**ENCODER, **HEADS, "attn_pool.{rest}": None}


def _matches(file: Unwrapped) -> bool:
    pooled = {"patch_embed.proj.weight", "attn_pool.latent"} <= file.state.keys()
    return pooled and not {"cls_token", "reg_token"} & file.state.keys()


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


def _is_tower(file: Unwrapped) -> bool:
    return "visual.trunk." in file.wrappers and PLAIN.matches(file)


# A plain ViT of timm beside a text tower.
TIMM_TOWER = dataclasses.replace(
    PLAIN,
    name="timm_tower",
    title="a plain ViT as a tower of OpenCLIP",
    matches=_is_tower,
    beside=BESIDE_TOWER,
    origins=(*PLAIN_ORIGINS, "openclip"),
)

# SPDX-License-Identifier: Apache-2.0
"""EVA: a plain ViT whose keys have no bias; pre-trained, fine-tuned, or out of its detector.

Keys are BEiT's without tables and LayerScale. timm's names are the same.

Source: baaivision/EVA, ``EVA-01/eva/modeling_finetune.py`` and ``modeling_pretrain.py``,
``EVA-01/det``; timm, ``models/eva.py``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.encoder import STEM
from vitdet_d2.pretrained.key_table import KeyTable, Part
from vitdet_d2.pretrained.normalisation import CLIP, IMAGENET, Normalisation
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.eva02 import (
    BESIDE,
    detector_notes,
    is_eva_detector,
    num_prefix,
    patch_is_final,
)
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS, OWN

TABLE: KeyTable = {
    **ENCODER,
    "blocks.{n}.attn.q_bias": Part("blocks.{n}.attn.qkv.bias", 0),
    "blocks.{n}.attn.v_bias": Part("blocks.{n}.attn.qkv.bias", 2),
    **OWN,
    **HEADS,
    "mask_token": None,
    "lm_head.{rest}": None,
}

# EVA-02-CLIP-E, whose keys are the same, normalises after each branch.
_POST_NORM_WIDTH = 1792


def _is_eva01(file: Unwrapped) -> bool:
    signs = {"pos_embed", "blocks.0.attn.q_bias", "blocks.0.attn.qkv.weight"}
    is_official = "cls_token" in file.state or "backbone.net." in file.wrappers
    return signs <= file.state.keys() and is_official and "reg_token" not in file.state


def _refuse(file: Unwrapped) -> str | None:
    if file.state[STEM].shape[0] != _POST_NORM_WIDTH:
        return None
    return (
        f"of width {_POST_NORM_WIDTH} it is EVA-02-CLIP-E, which has its norms behind attention "
        "and perceptron; this ViT has them before"
    )


def _normalisation(file: Unwrapped) -> Normalisation:
    return IMAGENET if is_eva_detector(file) else CLIP


def _notes(file: Unwrapped) -> tuple[str, ...]:
    if "head.weight" not in file.state or "mask_token" in file.state:
        return detector_notes(file)
    return (
        "timm uses ImageNet's statistics for EVA fine-tuned on ImageNet-21k at 336 and 560 pixels, "
        "which no key tells; set the recipe's pixel_mean and pixel_std for these",
    )


EVA01 = Source(
    name="eva01",
    title="EVA",
    matches=_is_eva01,
    table=TABLE,
    beside=BESIDE,
    normalisation=_normalisation,
    num_prefix=num_prefix,
    refuse=_refuse,
    notes=_notes,
    patch_is_final=patch_is_final,
)

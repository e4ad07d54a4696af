# SPDX-License-Identifier: Apache-2.0
"""MoCo v3: the whole training model, its encoder in DeiT's layout, or a linear classifier on it.

Its ViT-S has 12 attention heads, and tensors of the same shapes as DeiT's with 6.

Source: facebookresearch/moco-v3, ``vits.py``, ``moco/builder.py``, ``convert_to_deit.py`` and
``main_lincls.py``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.sincos import is_fixed
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.plain import (
    ENCODER,
    HEADS,
    PLAIN_ORIGINS,
    count_class_rows,
)

# The head of pre-training is a projector of several layers, with batch norms.
TABLE: KeyTable = {**ENCODER, **HEADS}
BESIDE = ("momentum_encoder.{rest}", "predictor.{rest}")
MOCO_HEADS = {384: 12, 768: 12}

# The first of five convolutions, where patches are not cut out by one.
_CONVOLUTIONAL_STEM = "patch_embed.proj.0.weight"
_LAST_OF_STEM = "patch_embed.proj.12.weight"


def _is_training_model(file: Unwrapped) -> bool:
    return "base_encoder." in file.wrappers or _LAST_OF_STEM in file.state


def _has_fixed_positions(file: Unwrapped) -> bool:
    if not {"pos_embed", "cls_token", "patch_embed.proj.weight"} <= file.state.keys():
        return False
    return count_class_rows(file) == 1 and is_fixed(file.state["pos_embed"], 1, "rows")


def _refuse(file: Unwrapped) -> str | None:
    if _CONVOLUTIONAL_STEM not in file.state:
        return None
    return (
        "its patches come from a stem of convolutions (patch_embed.proj.0 to .12: vit_conv_small, "
        "vit_conv_base), which a plain ViT has not; take vit_small or vit_base"
    )


MOCO_V3 = Source(
    name="mocov3",
    title="MoCo v3",
    matches=_is_training_model,
    table=TABLE,
    beside=BESIDE,
    normalisation=IMAGENET,
    heads=MOCO_HEADS,
    refuse=_refuse,
)
# Keys are those of any plain ViT.
MOCO_V3_ENCODER = Source(
    name="mocov3",
    title="MoCo v3",
    matches=_has_fixed_positions,
    table=TABLE,
    normalisation=IMAGENET,
    heads=MOCO_HEADS,
    evidence="its fixed position embedding, rows first",
    origins=PLAIN_ORIGINS,
)

# SPDX-License-Identifier: Apache-2.0
"""I-JEPA: the target encoder of a training file; no class token, fixed positions.

Source: facebookresearch/ijepa, ``src/train.py`` and ``src/models/vision_transformer.py``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.sincos import is_fixed
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS, PLAIN_ORIGINS

TABLE: KeyTable = {**ENCODER, **HEADS}


def _has_no_class_token(file: Unwrapped) -> bool:
    names = file.state.keys()
    return "cls_token" not in names and {"pos_embed", "patch_embed.proj.weight"} <= names


def _is_training_file(file: Unwrapped) -> bool:
    return "target_encoder" in file.wrappers and _has_no_class_token(file)


def _has_fixed_positions(file: Unwrapped) -> bool:
    return _has_no_class_token(file) and is_fixed(file.state["pos_embed"], 0, "columns")


IJEPA = Source(
    name="ijepa",
    title="I-JEPA",
    matches=_is_training_file,
    table=TABLE,
    normalisation=IMAGENET,
)
# Keys are those of any plain ViT.
IJEPA_ENCODER = Source(
    name="ijepa",
    title="I-JEPA",
    matches=_has_fixed_positions,
    table=TABLE,
    normalisation=IMAGENET,
    evidence="its fixed position embedding, columns first, and no class token",
    origins=PLAIN_ORIGINS,
)

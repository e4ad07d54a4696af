# SPDX-License-Identifier: Apache-2.0
"""MSN: the target encoder of a training file, with its projection head.

Source: facebookresearch/msn, ``src/msn_train.py`` and ``src/deit.py``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS

TABLE: KeyTable = {**ENCODER, **HEADS, "fc.{rest}": None, "pred.{rest}": None}

_CONVOLUTIONAL_STEM = "patch_embed.stem.0.weight"


def _matches(file: Unwrapped) -> bool:
    names = file.state.keys()
    if _CONVOLUTIONAL_STEM in names or "fc.fc1.weight" in names:
        return True
    return "target_encoder" in file.wrappers and "cls_token" in names


def _refuse(file: Unwrapped) -> str | None:
    if _CONVOLUTIONAL_STEM not in file.state:
        return None
    return (
        "its patches come from a stem of convolutions (patch_embed.stem), which a plain ViT has "
        "not; take a model without it"
    )


MSN = Source(
    name="msn",
    title="MSN",
    matches=_matches,
    table=TABLE,
    normalisation=IMAGENET,
    refuse=_refuse,
)

# SPDX-License-Identifier: Apache-2.0
"""DINO (the first): the training file, whose teacher is taken; its encoder alone is a plain ViT.

Source: facebookresearch/dino, ``main_dino.py`` and ``vision_transformer.py``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS

TABLE: KeyTable = {**ENCODER, **HEADS}
BESIDE = ("head.{rest}",)


def _matches(file: Unwrapped) -> bool:
    return "dino_loss" in file.siblings


DINO = Source(
    name="dino",
    title="DINO",
    matches=_matches,
    table=TABLE,
    beside=BESIDE,
    normalisation=IMAGENET,
    evidence="the training state beside the weights (dino_loss)",
)

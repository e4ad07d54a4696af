# SPDX-License-Identifier: Apache-2.0
"""iBOT: the training file, whose teacher is taken, or its encoder, with or without LayerScale.

Source: bytedance/ibot, ``main_ibot.py``, ``extract_backbone_weights.py`` and
``models/vision_transformer.py``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS, count_class_rows

TABLE: KeyTable = {
    **ENCODER,
    **HEADS,
    "masked_embed": None,
    "blocks.{n}.gamma_1": "blocks.{n}.ls1.gamma",
    "blocks.{n}.gamma_2": "blocks.{n}.ls2.gamma",
}
BESIDE = ("head.{rest}",)


def _matches(file: Unwrapped) -> bool:
    names = file.state.keys()
    if "ibot_loss" in file.siblings or "masked_embed" in names:
        return True
    # BEiT has biases by these names, DeiT III no position of the class token.
    scaled = {"blocks.0.gamma_1", "pos_embed", "cls_token", "blocks.0.attn.qkv.bias"} <= names
    return scaled and count_class_rows(file) == 1


IBOT = Source(
    name="ibot",
    title="iBOT",
    matches=_matches,
    table=TABLE,
    beside=BESIDE,
    normalisation=IMAGENET,
)

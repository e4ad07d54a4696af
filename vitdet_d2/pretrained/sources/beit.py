# SPDX-License-Identifier: Apache-2.0
"""BEiT and BEiT v2: pre-trained, pre-trained with a class token head (v2), or fine-tuned.

Each block has a table of position biases, in pre-training all share one; keys have no bias. timm's
names are the same. The two versions have the same keys, and normalise images differently.

Source: microsoft/unilm, ``beit`` and ``beit2``: ``modeling_pretrain.py``, ``modeling_finetune.py``,
and for the images their commands in ``README.md`` and ``PRETRAINING.md``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.encoder import BLOCK_BIAS, SHARED_BIAS
from vitdet_d2.pretrained.key_table import KeyTable, Part
from vitdet_d2.pretrained.normalisation import HALF, IMAGENET
from vitdet_d2.pretrained.source import COMMON_HEADS, Source
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS, OWN

TABLE: KeyTable = {
    **ENCODER,
    "blocks.{n}.gamma_1": "blocks.{n}.ls1.gamma",
    "blocks.{n}.gamma_2": "blocks.{n}.ls2.gamma",
    "blocks.{n}.attn.q_bias": Part("blocks.{n}.attn.qkv.bias", 0),
    "blocks.{n}.attn.v_bias": Part("blocks.{n}.attn.qkv.bias", 2),
    f"blocks.{{n}}.{BLOCK_BIAS}": f"blocks.{{n}}.{BLOCK_BIAS}",
    SHARED_BIAS: SHARED_BIAS,
    # Computed from the grid.
    "blocks.{n}.attn.relative_position_index": None,
    "rel_pos_bias.relative_position_index": None,
    **OWN,
    **HEADS,
    "mask_token": None,
    "lm_head.{rest}": None,
    # Version 2 pre-trains the class token by a few blocks of its own.
    "cls_pt_layers.{rest}": None,
    "cls_pt_norm.{rest}": None,
    "cls_pt_lm_head.{rest}": None,
}

_FIRST_BIAS = f"blocks.0.{BLOCK_BIAS}"
# Rows of a table for pairs with the class token: to it, from it, and with itself.
_CLASS_ROWS = 3
# One size of version 2 is nobody else's.
_HEADS = {**COMMON_HEADS, 544: 16}


def _has_class_rows(rows: int) -> bool:
    """Whether a table has rows for the class token, as all of BEiT's have and none of our ViT."""
    side = math.isqrt(max(rows - _CLASS_ROWS, 0))
    return side % 2 == 1 and side**2 == rows - _CLASS_ROWS


def _bias_tables(file: Unwrapped) -> list[str]:
    return [
        name
        for name in (SHARED_BIAS, _FIRST_BIAS)
        if name in file.state and _has_class_rows(file.state[name].shape[0])
    ]


def _is_beit(file: Unwrapped) -> bool:
    state = file.state
    if "blocks.0.mlp.fc1.weight" not in state:
        return False
    # Without tables, it was trained with absolute positions alone.
    positions_alone = {"pos_embed", "cls_token", "blocks.0.gamma_1", "blocks.0.attn.q_bias"}
    registers = "reg_token" in state
    return bool(_bias_tables(file)) or (positions_alone <= state.keys() and not registers)


def _may_be_version_1(file: Unwrapped) -> bool:
    """Whether nothing in a file is of version 2 alone: heads of the class token, or no biases."""
    has_class_head = any(name.startswith("cls_pt_layers.") for name in file.state)
    return _is_beit(file) and "blocks.0.attn.q_bias" in file.state and not has_class_head


def _heads(file: Unwrapped) -> Mapping[int, int]:
    """Read the heads off the tables, where there are any."""
    tables = _bias_tables(file)
    if not tables:
        return _HEADS
    width = file.state["patch_embed.proj.weight"].shape[0]
    return {width: file.state[tables[0]].shape[1]}


def _say_which(file: Unwrapped) -> tuple[str, ...]:  # noqa: ARG001
    return (
        "BEiT normalises images by 0.5 (by ImageNet's statistics where it was pre-trained on "
        "ImageNet-1k), BEiT v2 by ImageNet's, and their keys are the same: name the source beit, "
        "beit_in1k or beit_v2",
    )


_EITHER = Source(
    name="beit_or_beit_v2",
    title="BEiT or BEiT v2",
    matches=_may_be_version_1,
    table=TABLE,
    heads=_heads,
    notes=_say_which,
)
_V2 = Source(
    name="beit_v2",
    title="BEiT v2",
    matches=_is_beit,
    table=TABLE,
    normalisation=IMAGENET,
    heads=_heads,
)
_V1 = Source(
    name="beit",
    title="BEiT",
    matches=_may_be_version_1,
    table=TABLE,
    normalisation=HALF,
    heads=_heads,
)
_V1_IN1K = dataclasses.replace(
    _V1, name="beit_in1k", title="BEiT pre-trained on ImageNet-1k", normalisation=IMAGENET
)
# The first that matches is taken: version 2 by its own keys, version 1 only if it is named.
BEIT: tuple[Source, ...] = (_EITHER, _V2, _V1, _V1_IN1K)

# SPDX-License-Identifier: Apache-2.0
"""BEiT and data2vec-vision as transformers stores them.

Position bias tables are in every block (fine-tuned models) or one for all (pre-training); keys
have no bias.

Source: huggingface/transformers, ``models/beit`` and ``models/data2vec``; data2vec's names in
memory are those on disk.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import HALF
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.hugging_face_names import (
    ATTENTION,
    EMBEDDINGS,
    NORMS_AND_PERCEPTRON,
    PATCHES,
    POOLING,
    blocks,
    count_tokens,
)

_BLOCK: KeyTable = {
    "lambda_1": "ls1.gamma",
    "lambda_2": "ls2.gamma",
    "attention.attention.relative_position_bias.relative_position_bias_table": (
        "attn.relative_position_bias_table"
    ),
    "relative_position_bias.relative_position_bias_table": "attn.relative_position_bias_table",
    # Computed from the grid; files of older versions have it.
    "attention.attention.relative_position_bias.relative_position_index": None,
}
_SHARED = "rel_pos_bias.relative_position_bias_table"

# Segmentation, whose heads resize maps in "fpn1" to "fpn4".
_HEADS: KeyTable = {
    "classifier.{rest}": None,
    "lm_head.{rest}": None,
    "decode_head.{rest}": None,
    "auxiliary_head.{rest}": None,
    "fpn{n}.{rest}": None,
}

TABLE: KeyTable = {
    **EMBEDDINGS,
    **blocks(_BLOCK, ATTENTION, NORMS_AND_PERCEPTRON),
    "encoder.relative_position_bias.relative_position_bias_table": _SHARED,
    "encoder.relative_position_bias.relative_position_index": None,
    "shared_position_bias.relative_position_bias_table": _SHARED,
    **POOLING,
    **_HEADS,
}

# Of a block, however many blocks and prefixes there are; any of them tells BEiT from ViT.
_SIGNS = (".lambda_1", "relative_position_bias_table")


def _matches(file: Unwrapped) -> bool:
    return PATCHES in file.state and any(name.endswith(_SIGNS) for name in file.state)


HUGGING_FACE_BEIT = Source(
    name="hugging_face_beit",
    title="BEiT or data2vec-vision of Hugging Face",
    matches=_matches,
    table=TABLE,
    # Of masked image modelling: the last norm is outside of the encoder, too.
    beside=(*_HEADS, "layernorm.{rest}"),
    normalisation=HALF,
    num_prefix=count_tokens,
    origins=("beit", "beit_in1k", "beit_v2"),
)

# SPDX-License-Identifier: Apache-2.0
"""DINOv2 as transformers stores it, with and without registers, with and without gates.

Source: huggingface/transformers, ``models/dinov2`` and ``models/dinov2_with_registers``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import Halves, KeyTable
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.hugging_face_names import (
    ATTENTION,
    EMBEDDINGS,
    GATED,
    LAYER_SCALE,
    PATCHES,
    POOLING,
    blocks,
    count_tokens,
    registers_note,
)

_BLOCK: KeyTable = {
    "norm1.{rest}": "norm1.{rest}",
    "norm2.{rest}": "norm2.{rest}",
    "mlp.fc1.{rest}": "mlp.fc1.{rest}",
    "mlp.fc2.{rest}": "mlp.fc2.{rest}",
    "mlp.weights_in.{rest}": Halves("mlp.w1.{rest}", "mlp.w2.{rest}"),
    "mlp.weights_out.{rest}": "mlp.w3.{rest}",
}

TABLE: KeyTable = {
    **EMBEDDINGS,
    **blocks(_BLOCK, ATTENTION, LAYER_SCALE, GATED),
    **POOLING,
    "classifier.{rest}": None,
}


def _matches(file: Unwrapped) -> bool:
    return PATCHES in file.state and any(n.endswith(".layer_scale1.lambda1") for n in file.state)


HUGGING_FACE_DINOV2 = Source(
    name="hugging_face_dinov2",
    title="DINOv2 of Hugging Face",
    matches=_matches,
    table=TABLE,
    beside=("classifier.{rest}",),
    notes=registers_note,
    normalisation=IMAGENET,
    num_prefix=count_tokens,
    origins=("dinov2",),
)

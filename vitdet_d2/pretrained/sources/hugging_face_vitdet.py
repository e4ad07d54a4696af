# SPDX-License-Identifier: Apache-2.0
"""VitDet as transformers stores it: ViTDet's backbone under other names, bit by bit.

Source: huggingface/transformers, ``models/vitdet``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.hugging_face_names import blocks

_BLOCK: KeyTable = {
    "norm1.{rest}": "norm1.{rest}",
    "attention.{rest}": "attn.{rest}",
    "norm2.{rest}": "norm2.{rest}",
    "mlp.{rest}": "mlp.{rest}",
    "residual.{rest}": "residual.{rest}",
}
TABLE: KeyTable = {
    "embeddings.projection.{rest}": "patch_embed.proj.{rest}",
    "embeddings.position_embeddings": "pos_embed",
    **blocks(_BLOCK, places=("encoder.layer",)),
}


def _matches(file: Unwrapped) -> bool:
    wanted = {"embeddings.projection.weight", "encoder.layer.0.attention.qkv.weight"}
    return wanted <= file.state.keys()


def _class_token(file: Unwrapped) -> int:
    """The class token has a position, and is gone itself."""
    return int("embeddings.position_embeddings" in file.state)


HUGGING_FACE_VITDET = Source(
    name="hugging_face_vitdet",
    title="VitDet of Hugging Face",
    matches=_matches,
    table=TABLE,
    num_prefix=_class_token,
)

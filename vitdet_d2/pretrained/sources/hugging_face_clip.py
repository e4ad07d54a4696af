# SPDX-License-Identifier: Apache-2.0
"""The image tower of CLIP as transformers stores it, alone or beside the text tower.

Source: huggingface/transformers, ``models/clip``. The activation is in the configuration: OpenAI's
weights have QuickGELU, those trained with OpenCLIP mostly GELU.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable, Part, Take
from vitdet_d2.pretrained.normalisation import CLIP
from vitdet_d2.pretrained.source import Needs, Source
from vitdet_d2.pretrained.sources.hugging_face_names import blocks


def _add_batch(positions: Tensor) -> Tensor:
    return positions[None]


_BLOCK: KeyTable = {
    "layer_norm1.{rest}": "norm1.{rest}",
    "self_attn.q_proj.{rest}": Part("attn.qkv.{rest}", 0),
    "self_attn.k_proj.{rest}": Part("attn.qkv.{rest}", 1),
    "self_attn.v_proj.{rest}": Part("attn.qkv.{rest}", 2),
    "self_attn.out_proj.{rest}": "attn.proj.{rest}",
    "layer_norm2.{rest}": "norm2.{rest}",
    "mlp.fc1.{rest}": "mlp.fc1.{rest}",
    "mlp.fc2.{rest}": "mlp.fc2.{rest}",
}
TABLE: KeyTable = {
    "embeddings.patch_embedding.weight": "patch_embed.proj.weight",
    "embeddings.position_embedding.weight": Take("pos_embed", _add_batch),
    "embeddings.class_embedding": None,
    "embeddings.position_ids": None,
    # transformers spells it so.
    "pre_layrnorm.{rest}": "norm_pre.{rest}",
    **blocks(_BLOCK, places=("encoder.layers",)),
    "post_layernorm.{rest}": None,
}
_BESIDE = (
    "text_model.{rest}",
    "visual_projection.{rest}",
    "text_projection.{rest}",
    "logit_scale",
    "classifier.{rest}",
)


def _matches(file: Unwrapped) -> bool:
    return {"embeddings.patch_embedding.weight", "pre_layrnorm.weight"} <= file.state.keys()


def _class_token(file: Unwrapped) -> int:  # noqa: ARG001
    return 1


def _needs(file: Unwrapped) -> Needs:  # noqa: ARG001
    return Needs(act="quick_gelu", eps=1e-5)


def _needs_of_openclip(file: Unwrapped) -> Needs:  # noqa: ARG001
    return Needs(act="gelu", eps=1e-5)


def _notes(file: Unwrapped) -> tuple[str, ...]:  # noqa: ARG001
    return (
        "the keys do not tell the activation: OpenAI's quick_gelu is taken; where config.json "
        "has hidden_act=gelu (LAION, DataComp), name the source hugging_face_openclip",
    )


def _no_notes(file: Unwrapped) -> tuple[str, ...]:  # noqa: ARG001
    return ()


HUGGING_FACE_CLIP = Source(
    name="hugging_face_clip",
    title="CLIP of Hugging Face",
    matches=_matches,
    table=TABLE,
    beside=_BESIDE,
    normalisation=CLIP,
    num_prefix=_class_token,
    needs=_needs,
    notes=_notes,
    origins=("clip",),
)
# Recognised only where it is named: it comes after CLIP.
HUGGING_FACE_OPENCLIP = dataclasses.replace(
    HUGGING_FACE_CLIP,
    name="hugging_face_openclip",
    title="OpenCLIP of Hugging Face",
    needs=_needs_of_openclip,
    notes=_no_notes,
    origins=("openclip",),
)

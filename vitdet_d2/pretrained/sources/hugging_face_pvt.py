# SPDX-License-Identifier: Apache-2.0
"""Pyramid transformers as transformers stores them: PVT, PVT v2, and MiT as SegFormer's encoder.

Where the models have one epsilon in all their norms, the models that they were converted from have
two, as our backbones do.

Source: huggingface/transformers, ``models/{pvt,pvt_v2,segformer}``; of SegFormer the names on disk,
and those in memory since version 5.
"""

from __future__ import annotations

from collections.abc import Mapping

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.family import PYRAMID
from vitdet_d2.pretrained.key_table import KEYS_AND_VALUES, KeyTable, Part, Target
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.pvt_v2 import MIT_LICENCE_NOTE

_BESIDE = ("classifier.{rest}", "decode_head.{rest}")


def _keys(target: str) -> Part:
    return Part(target, 1, parts=KEYS_AND_VALUES)


def _values(target: str) -> Part:
    return Part(target, 2, parts=KEYS_AND_VALUES)


# Of one block, by what stands before its names; ours below "blockS.N.".
_NORMS_AND_PERCEPTRON: KeyTable = {
    "layer_norm_1.{rest}": "norm1.{rest}",
    "layer_norm_2.{rest}": "norm2.{rest}",
    "mlp.dense1.{rest}": "mlp.fc1.{rest}",
    "mlp.dwconv.dwconv.{rest}": "mlp.dwconv.dwconv.{rest}",
    "mlp.dense2.{rest}": "mlp.fc2.{rest}",
}
_BLOCK_ON_DISK: KeyTable = {
    **_NORMS_AND_PERCEPTRON,
    "attention.self.query.{rest}": "attn.q.{rest}",
    "attention.self.key.{rest}": _keys("attn.kv.{rest}"),
    "attention.self.value.{rest}": _values("attn.kv.{rest}"),
    "attention.self.layer_norm.{rest}": "attn.norm.{rest}",
    "attention.self.sequence_reduction.{rest}": "attn.sr.{rest}",
    "attention.self.sr.{rest}": "attn.sr.{rest}",
    "attention.output.dense.{rest}": "attn.proj.{rest}",
}
_BLOCK_OF_VERSION_2: KeyTable = {
    **_NORMS_AND_PERCEPTRON,
    "attention.query.{rest}": "attn.q.{rest}",
    "attention.key.{rest}": _keys("attn.kv.{rest}"),
    "attention.value.{rest}": _values("attn.kv.{rest}"),
    "attention.layer_norm.{rest}": "attn.norm.{rest}",
    "attention.spatial_reduction.{rest}": "attn.sr.{rest}",
    "attention.proj.{rest}": "attn.proj.{rest}",
}
_BLOCK_IN_MEMORY: KeyTable = {
    "layernorm_before.{rest}": "norm1.{rest}",
    "layernorm_after.{rest}": "norm2.{rest}",
    "attention.q_proj.{rest}": "attn.q.{rest}",
    "attention.k_proj.{rest}": _keys("attn.kv.{rest}"),
    "attention.v_proj.{rest}": _values("attn.kv.{rest}"),
    "attention.o_proj.{rest}": "attn.proj.{rest}",
    "attention.sequence_reduction.sequence_reduction.{rest}": "attn.sr.{rest}",
    "attention.sequence_reduction.layer_norm.{rest}": "attn.norm.{rest}",
    "mlp.fc1.{rest}": "mlp.fc1.{rest}",
    "mlp.dwconv.dwconv.{rest}": "mlp.dwconv.dwconv.{rest}",
    "mlp.fc2.{rest}": "mlp.fc2.{rest}",
}


def _stages(step: Mapping[str, str], place: str, block: KeyTable) -> KeyTable:
    """Return the table of all four stages.

    Args:
        step: what is not of the blocks, by the source's name with ``{s}`` for the number of the
            stage from 0; ours has ``{S}`` for it from 1.
        place: what stands before the names of a block, with ``{s}`` and ``{n}``.
        block: of one block, without that.
    """
    table: dict[str, Target] = {}
    for stage in range(4):
        for pattern, name in step.items():
            table[pattern.replace("{s}", str(stage))] = name.replace("{S}", str(stage + 1))
        for pattern, target in block.items():
            table[place.replace("{s}", str(stage)) + pattern] = _of_block(target, stage + 1)
    return table


def _of_block(target: Target, stage: int) -> Target:
    place = f"block{stage}.{{n}}."
    if isinstance(target, Part):
        return Part(place + target.target, target.index, parts=target.parts)
    assert isinstance(target, str), "a block's tensors are renamed, or joined"
    return place + target


_PVT_TABLE: KeyTable = {
    **_stages(
        {
            "patch_embeddings.{s}.position_embeddings": "pos_embed{S}",
            "patch_embeddings.{s}.projection.{rest}": "patch_embed{S}.proj.{rest}",
            "patch_embeddings.{s}.layer_norm.{rest}": "patch_embed{S}.norm.{rest}",
        },
        "block.{s}.{n}.",
        _BLOCK_ON_DISK,
    ),
    "patch_embeddings.{n}.cls_token": None,
    # Of the class token.
    "layer_norm.{rest}": None,
}
_PVT_V2_TABLE = _stages(
    {
        "layers.{s}.patch_embedding.proj.{rest}": "patch_embed{S}.proj.{rest}",
        "layers.{s}.patch_embedding.layer_norm.{rest}": "patch_embed{S}.norm.{rest}",
        "layers.{s}.layer_norm.{rest}": "norm{S}.{rest}",
    },
    "layers.{s}.blocks.{n}.",
    _BLOCK_OF_VERSION_2,
)
_SEGFORMER_TABLE: KeyTable = {
    **_stages(
        {
            "patch_embeddings.{s}.proj.{rest}": "patch_embed{S}.proj.{rest}",
            "patch_embeddings.{s}.layer_norm.{rest}": "patch_embed{S}.norm.{rest}",
            "layer_norm.{s}.{rest}": "norm{S}.{rest}",
        },
        "block.{s}.{n}.",
        _BLOCK_ON_DISK,
    ),
    **_stages(
        {
            "stages.{s}.patch_embeddings.proj.{rest}": "patch_embed{S}.proj.{rest}",
            "stages.{s}.patch_embeddings.layer_norm.{rest}": "patch_embed{S}.norm.{rest}",
            "stages.{s}.layer_norm.{rest}": "norm{S}.{rest}",
        },
        "stages.{s}.blocks.{n}.",
        _BLOCK_IN_MEMORY,
    ),
}


def _is_pvt(file: Unwrapped) -> bool:
    return "patch_embeddings.0.projection.weight" in file.state


def _is_pvt_v2(file: Unwrapped) -> bool:
    return "layers.0.patch_embedding.proj.weight" in file.state


def _is_segformer(file: Unwrapped) -> bool:
    stems = {"patch_embeddings.0.proj.weight", "stages.0.patch_embeddings.proj.weight"}
    return bool(stems & file.state.keys())


HUGGING_FACE_PVT = Source(
    name="hugging_face_pvt",
    title="PVT of Hugging Face",
    matches=_is_pvt,
    table=_PVT_TABLE,
    beside=_BESIDE,
    normalisation=IMAGENET,
    num_prefix=lambda _: 0,
    heads={},
    origins=("pvt",),
    family=PYRAMID,
)
HUGGING_FACE_PVT_V2 = Source(
    name="hugging_face_pvt_v2",
    title="PVT v2 of Hugging Face",
    matches=_is_pvt_v2,
    table=_PVT_V2_TABLE,
    beside=_BESIDE,
    normalisation=IMAGENET,
    num_prefix=lambda _: 0,
    heads={},
    origins=("pvt_v2",),
    family=PYRAMID,
)
HUGGING_FACE_SEGFORMER = Source(
    name="hugging_face_segformer",
    title="MiT of Hugging Face's SegFormer",
    matches=_is_segformer,
    table=_SEGFORMER_TABLE,
    beside=_BESIDE,
    normalisation=IMAGENET,
    num_prefix=lambda _: 0,
    heads={},
    notes=lambda _: (MIT_LICENCE_NOTE,),
    origins=("mit",),
    family=PYRAMID,
)

# SPDX-License-Identifier: Apache-2.0
"""Names that several layouts of transformers share: those on disk, and those in memory.

Files keep the names that a model had when it was first released; from version 5 on, models have
others in memory (``layers.0.attention.q_proj`` for
``encoder.layer.0.attention.attention.query``), which a saved ``state_dict()`` shows. Both are read.
"""

from __future__ import annotations

import dataclasses

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import Halves, KeyTable, Part, Target

PATCHES = "embeddings.patch_embeddings.projection.weight"

EMBEDDINGS: KeyTable = {
    "embeddings.patch_embeddings.projection.{rest}": "patch_embed.proj.{rest}",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.cls_token": None,
    "embeddings.mask_token": None,
    "embeddings.distillation_token": None,
    "embeddings.register_tokens": None,
}

# Of one block, below "encoder.layer.{n}." or "layers.{n}."; ours below "blocks.{n}.".
ATTENTION: KeyTable = {
    "attention.attention.query.{rest}": Part("attn.qkv.{rest}", 0),
    "attention.attention.key.{rest}": Part("attn.qkv.{rest}", 1),
    "attention.attention.value.{rest}": Part("attn.qkv.{rest}", 2),
    "attention.output.dense.{rest}": "attn.proj.{rest}",
    "attention.q_proj.{rest}": Part("attn.qkv.{rest}", 0),
    "attention.k_proj.{rest}": Part("attn.qkv.{rest}", 1),
    "attention.v_proj.{rest}": Part("attn.qkv.{rest}", 2),
    "attention.o_proj.{rest}": "attn.proj.{rest}",
}
# Of ViT and BEiT.
NORMS_AND_PERCEPTRON: KeyTable = {
    "layernorm_before.{rest}": "norm1.{rest}",
    "layernorm_after.{rest}": "norm2.{rest}",
    "intermediate.dense.{rest}": "mlp.fc1.{rest}",
    "output.dense.{rest}": "mlp.fc2.{rest}",
    "mlp.fc1.{rest}": "mlp.fc1.{rest}",
    "mlp.fc2.{rest}": "mlp.fc2.{rest}",
}
# Dinov2's and DINOv3's.
LAYER_SCALE: KeyTable = {
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
# silu(gate) * up.
GATED: KeyTable = {
    "mlp.gate_proj.{rest}": "mlp.w1.{rest}",
    "mlp.up_proj.{rest}": "mlp.w2.{rest}",
    "mlp.down_proj.{rest}": "mlp.w3.{rest}",
}
# Behind the encoder, below its prefix.
POOLING: KeyTable = {
    "layernorm.{rest}": None,
    "pooler.{rest}": None,
}


def blocks(*tables: KeyTable, places: tuple[str, ...] = ("encoder.layer", "layers")) -> KeyTable:
    """Return the table of all blocks from those of one.

    Args:
        tables: of one block, without what stands before its names.
        places: what stands before the number of a block.
    """
    return {
        f"{place}.{{n}}.{pattern}": _of_block(target)
        for place in places
        for table in tables
        for pattern, target in table.items()
    }


def _of_block(target: Target) -> Target:
    if isinstance(target, str):
        return f"blocks.{{n}}.{target}"
    if target is None:
        return None
    if isinstance(target, Halves):
        return Halves(f"blocks.{{n}}.{target.first}", f"blocks.{{n}}.{target.second}")
    return dataclasses.replace(target, target=f"blocks.{{n}}.{target.target}")


def count_tokens(file: Unwrapped) -> int:
    """Count the tokens in front of the patches that have a position."""
    return sum(f"embeddings.{name}" in file.state for name in ("cls_token", "distillation_token"))


def registers_note(file: Unwrapped) -> tuple[str, ...]:
    """Say of register tokens that they are left out, if there are any."""
    tokens = file.state.get("embeddings.register_tokens")
    if tokens is None:
        return ()
    return (f"{tokens.shape[1]} register tokens are left out: detection runs patches only",)

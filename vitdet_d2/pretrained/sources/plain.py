# SPDX-License-Identifier: Apache-2.0
"""The layout that MAE's encoder, DeiT, DINO, AugReg and others share, which keys cannot tell apart.

Our own ViT's names, with its options, are the same.
"""

from __future__ import annotations

import math

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable, Part
from vitdet_d2.pretrained.source import Source

# Of every plain ViT, whatever it was trained for.
ENCODER: KeyTable = {
    "pos_embed": "pos_embed",
    "patch_embed.proj.{rest}": "patch_embed.proj.{rest}",
    "blocks.{n}.norm1.{rest}": "blocks.{n}.norm1.{rest}",
    "blocks.{n}.attn.qkv.{rest}": "blocks.{n}.attn.qkv.{rest}",
    "blocks.{n}.attn.proj.{rest}": "blocks.{n}.attn.proj.{rest}",
    "blocks.{n}.norm2.{rest}": "blocks.{n}.norm2.{rest}",
    "blocks.{n}.mlp.fc1.{rest}": "blocks.{n}.mlp.fc1.{rest}",
    "blocks.{n}.mlp.fc2.{rest}": "blocks.{n}.mlp.fc2.{rest}",
}
# What classification and pooling add behind the encoder.
HEADS: KeyTable = {
    "cls_token": None,
    "norm.{rest}": None,
    "fc_norm.{rest}": None,
    "pre_logits.{rest}": None,
    "head.{rest}": None,
}
# What detection adds, and options of our ViT.
OWN: KeyTable = {
    "blocks.{n}.attn.rel_pos_h": "blocks.{n}.attn.rel_pos_h",
    "blocks.{n}.attn.rel_pos_w": "blocks.{n}.attn.rel_pos_w",
    "blocks.{n}.residual.{rest}": "blocks.{n}.residual.{rest}",
    "blocks.{n}.ls1.gamma": "blocks.{n}.ls1.gamma",
    "blocks.{n}.ls2.gamma": "blocks.{n}.ls2.gamma",
    "blocks.{n}.attn.q_bias": Part("blocks.{n}.attn.qkv.bias", 0),
    "blocks.{n}.attn.v_bias": Part("blocks.{n}.attn.qkv.bias", 2),
    "blocks.{n}.mlp.{rest}": "blocks.{n}.mlp.{rest}",
    "norm_pre.{rest}": "norm_pre.{rest}",
}


def _matches(file: Unwrapped) -> bool:
    return {"patch_embed.proj.weight", "blocks.0.norm1.weight"} <= file.state.keys()


def _num_prefix(file: Unwrapped) -> int:
    """A class token, also where only its position is left: n and n + 1 are not both squares."""
    if "cls_token" in file.state or "pos_embed" not in file.state:
        return int("cls_token" in file.state)
    count = file.state["pos_embed"].shape[1]
    return int(math.isqrt(count) ** 2 != count)


PLAIN = Source(
    name="plain",
    title="a plain ViT",
    matches=_matches,
    table={**ENCODER, **HEADS, **OWN},
    num_prefix=_num_prefix,
)

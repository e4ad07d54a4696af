# SPDX-License-Identifier: Apache-2.0
"""The layout that MAE's encoder, DeiT, DINO, AugReg and others share, which keys cannot tell apart.

Our own ViT's names, with its options, are the same.
"""

from __future__ import annotations

import math

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable, Part
from vitdet_d2.pretrained.source import COMMON_HEADS, Source

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
    "blocks.{n}.attn.relative_position_bias_table": "blocks.{n}.attn.relative_position_bias_table",
    "rel_pos_bias_window": "rel_pos_bias_window",
    "rel_pos_bias_global": "rel_pos_bias_global",
    "blocks.{n}.residual.{rest}": "blocks.{n}.residual.{rest}",
    "blocks.{n}.ls1.gamma": "blocks.{n}.ls1.gamma",
    "blocks.{n}.ls2.gamma": "blocks.{n}.ls2.gamma",
    "blocks.{n}.attn.q_bias": Part("blocks.{n}.attn.qkv.bias", 0),
    "blocks.{n}.attn.v_bias": Part("blocks.{n}.attn.qkv.bias", 2),
    "blocks.{n}.mlp.{rest}": "blocks.{n}.mlp.{rest}",
    "norm_pre.{rest}": "norm_pre.{rest}",
}
# What timm's variants have beside it.
VARIANTS: KeyTable = {"reg_token": None, "attn_pool.{rest}": None}
# Of these widths there are ViTs with other numbers.
_HEADS = {width: heads for width, heads in COMMON_HEADS.items() if width < 1536}
# Whose files have no other keys than these.
PLAIN_ORIGINS = (
    "augreg",
    "deit",
    "dino",
    "google",
    "ibot",
    "ijepa",
    "mae",
    "mocov3",
    "msn",
    "siglip",
)


def _matches(file: Unwrapped) -> bool:
    return {"patch_embed.proj.weight", "blocks.0.norm1.weight"} <= file.state.keys()


def count_class_rows(file: Unwrapped) -> int:
    """Count the rows of a class token in ``pos_embed``: n and n + 1 are not both squares.

    A class token may have no row, and a row may be left where the token is gone.
    """
    if "pos_embed" not in file.state:
        return 0
    return count_before_grid(file.state["pos_embed"].shape[-2], "cls_token" in file.state)


def count_before_grid(num_positions: int, has_class_token: bool) -> int:
    """Count the rows before those of the patches, which are 0 or 1.

    Args:
        num_positions: all rows.
        has_class_token: decides where neither makes the grid of the patches a square.
    """
    if _is_square(num_positions):
        return 0
    return int(has_class_token or _is_square(num_positions - 1))


def _num_prefix(file: Unwrapped) -> int:
    """Registers have rows where all tokens have, and none where the class token has none."""
    registers = file.state.get("reg_token")
    if registers is not None and "pos_embed" in file.state:
        rows, every = file.state["pos_embed"].shape[-2], registers.shape[1]
        every += int("cls_token" in file.state)
        if not _is_square(rows) and _is_square(rows - every):
            return every
    return count_class_rows(file)


def _notes(file: Unwrapped) -> tuple[str, ...]:
    if "reg_token" not in file.state:
        return ()
    count = file.state["reg_token"].shape[1]
    return (f"{count} register tokens are left out: detection runs patches only",)


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


PLAIN = Source(
    name="plain",
    title="a plain ViT",
    matches=_matches,
    table={**ENCODER, **HEADS, **OWN, **VARIANTS},
    num_prefix=_num_prefix,
    heads=_HEADS,
    notes=_notes,
    origins=PLAIN_ORIGINS,
)

# SPDX-License-Identifier: Apache-2.0
"""DINOv2, with and without registers: official files, and timm's where keys differ from plain ones.

Training scripts may cut the blocks into chunks (``blocks.CHUNK.N``, with N counted over all of
them). The giant's perceptrons are gated, gate and value in one matrix.

Source: facebookresearch/dinov2, ``models/vision_transformer.py``; timm, ``vit_*_dinov2``.
"""

from __future__ import annotations

import dataclasses

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import Halves, KeyTable, Target
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source

_KERNEL = "patch_embed.proj.weight"
_NUM_REGISTERS, _PATCH = 4, 14
_REGISTERS = ("register_tokens", "reg_token")  # official, timm

# Below "blocks.{n}."; ours, too.
_BLOCK: dict[str, Target] = {
    "norm1.{rest}": "norm1.{rest}",
    "attn.qkv.{rest}": "attn.qkv.{rest}",
    "attn.proj.{rest}": "attn.proj.{rest}",
    "ls1.gamma": "ls1.gamma",
    "norm2.{rest}": "norm2.{rest}",
    "ls2.gamma": "ls2.gamma",
}
_PERCEPTRON: dict[str, Target] = {
    "mlp.fc1.{rest}": "mlp.fc1.{rest}",
    "mlp.fc2.{rest}": "mlp.fc2.{rest}",
}
_GATED: dict[str, Target] = {
    "mlp.w12.{rest}": Halves("mlp.w1.{rest}", "mlp.w2.{rest}"),
    "mlp.w3.{rest}": "mlp.w3.{rest}",
}
_GATED_IN_TIMM: dict[str, Target] = {
    "mlp.fc1.{rest}": Halves("mlp.w1.{rest}", "mlp.w2.{rest}"),
    "mlp.fc2.{rest}": "mlp.w3.{rest}",
}
_AROUND_BLOCKS: KeyTable = {
    "pos_embed": "pos_embed",
    "patch_embed.proj.{rest}": "patch_embed.proj.{rest}",
    "cls_token": None,
    "mask_token": None,
    "register_tokens": None,
    "reg_token": None,
    "norm.{rest}": None,
    "head.{rest}": None,
}


def _is_packed(file: Unwrapped) -> bool:
    """Whether gate and value are in one matrix under the names of an ungated perceptron."""
    fc1, fc2 = (file.state.get(f"blocks.0.mlp.fc{i}.weight") for i in (1, 2))
    return fc1 is not None and fc2 is not None and fc1.shape[0] == 2 * fc2.shape[1]


def _matches(file: Unwrapped) -> bool:
    state = file.state
    mask = state.get("mask_token")
    official = mask is not None and mask.dim() == 2 and "pos_embed" in state
    return "patch_embed.proj.weight" in state and (official or _is_told_in_timm(file))


def _is_told_in_timm(file: Unwrapped) -> bool:
    """Whether a file of timm shows it: other ViTs with registers have other numbers of them."""
    names = file.state.keys()
    if not {"blocks.0.ls1.gamma", "cls_token", "norm.weight"} <= names:
        return False
    registers = file.state.get("reg_token")
    if file.state[_KERNEL].shape[-1] != _PATCH:
        return False
    return _is_packed(file) if registers is None else registers.shape[1] == _NUM_REGISTERS


def _is_plain_in_timm(file: Unwrapped) -> bool:
    """LayerScale, and nothing else that tells it from others."""
    return {"blocks.0.ls1.gamma", "pos_embed", "cls_token", _KERNEL} <= file.state.keys()


def _table(file: Unwrapped) -> KeyTable:
    perceptron = _GATED_IN_TIMM if _is_packed(file) else {**_PERCEPTRON, **_GATED}
    block = {**_BLOCK, **perceptron}
    return {
        **_AROUND_BLOCKS,
        **{
            f"{place}.{pattern}": _below(target)
            for place in ("blocks.{n}", "blocks.{m}.{n}")
            for pattern, target in block.items()
        },
    }


def _below(target: Target) -> Target:
    """Place a target of one block among all blocks."""
    if isinstance(target, Halves):
        return Halves(f"blocks.{{n}}.{target.first}", f"blocks.{{n}}.{target.second}")
    return f"blocks.{{n}}.{target}"


def _num_prefix(file: Unwrapped) -> int:
    """One for the class token; in timm's files with registers it is part of the token."""
    return int("reg_token" not in file.state)


def _notes(file: Unwrapped) -> tuple[str, ...]:
    name = next((name for name in _REGISTERS if name in file.state), None)
    if name is None:
        how = "by a factor with an offset of 0.1"
        registers: tuple[str, ...] = ()
    else:
        how = "with antialiasing"
        count = file.state[name].shape[1]
        registers = (f"{count} register tokens are left out: detection runs patches only",)
    return (
        *registers,
        f"where positions are resized, it is by ViTDet's plain bicubic; DINOv2 resizes them {how}, "
        "which gives slightly other features away from its size of 518",
    )


DINOV2 = Source(
    name="dinov2",
    title="DINOv2",
    matches=_matches,
    table=_table,
    # The heads of its pre-training, and students beside the teacher.
    beside=("dino_head.{rest}", "ibot_head.{rest}"),
    normalisation=IMAGENET,
    num_prefix=_num_prefix,
    heads={384: 6, 768: 12, 1024: 16, 1536: 24},
    notes=_notes,
)


def _is_gated_in_timm(file: Unwrapped) -> bool:
    return {"blocks.0.ls1.gamma", "pos_embed", _KERNEL} <= file.state.keys() and _is_packed(file)


# Of timm's with gates, DINOv2's are not the only ones.
GATED = dataclasses.replace(
    DINOV2,
    name="plain",
    title="a plain ViT with gated perceptrons",
    matches=_is_gated_in_timm,
    normalisation=None,
    heads={},
    origins=("dinov2",),
)
# Recognised only where it is named: it comes after the plain ViT.
DINOV2_PLAIN = dataclasses.replace(DINOV2, matches=_is_plain_in_timm)

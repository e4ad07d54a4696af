# SPDX-License-Identifier: Apache-2.0
"""Encoders that no backbone of ours can be, each refused by what it has.

Some have no key of their own, and would be read as another source, with other features.

Source: timm, ``models/{vision_transformer,vision_transformer_hybrid,vision_transformer_relpos,eva,
beit,naflexvit,vitamin}.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.plain import count_class_rows


class _Kind(NamedTuple):
    matches: Callable[[Unwrapped], bool]
    reason: str


def _has(*parts: str) -> Callable[[Unwrapped], bool]:
    """Whether one of some texts is a part of a name."""
    return lambda file: any(part in name for name in file.state for part in parts)


def _has_all(*names: str) -> Callable[[Unwrapped], bool]:
    return lambda file: file.state.keys() >= set(names)


def _is_perception_encoder(file: Unwrapped) -> bool:
    """A norm before the blocks, as CLIP has, and what no CLIP has, or without CLIP's last norm."""
    names = file.state.keys()
    if not {"norm_pre.weight", "patch_embed.proj.weight", "pos_embed"} <= names:
        return False
    if "patch_embed.proj.bias" in names:
        return False
    if {"blocks.0.gamma_1", "attn_pool.latent"} & names:
        return True
    return "cls_token" in names and not {"norm.weight", "fc_norm.weight"} & names


def _has_rotary_positions_alone(file: Unwrapped) -> bool:
    """No positions in the file, no tables of them, and not DINOv3's class and four registers."""
    names = file.state.keys()
    if "blocks.0.gamma_1" not in names or "pos_embed" in names:
        return False
    if any("relative_position_bias" in name or name.startswith("rope_embed.") for name in names):
        return False
    registers = file.state.get("reg_token")
    is_dinov3 = "cls_token" in names and registers is not None and registers.shape[1] == 4
    return not is_dinov3


_HIERARCHICAL = (
    ", which neither a plain ViT nor a PVT can be; it goes as it is into a model of timm: give it "
    "to train.init_checkpoint of a recipe with TimmBackbone (docs/pretrained.md), without "
    "conversion"
)

_KINDS = (
    _Kind(
        _has_all("layers.0.blocks.0.attn.relative_position_bias_table"),
        f"it is a Swin (layers.N.blocks.N.attn.relative_position_bias_table){_HIERARCHICAL}",
    ),
    _Kind(
        _has("blocks.0.attn.pool_q.weight"),
        f"it is an MViTv2 (blocks.N.attn.pool_q){_HIERARCHICAL}",
    ),
    _Kind(
        _has("layers.0.0.projection.weight"),
        "its names are those of mmdetection's PVT or mmsegmentation's MiT, which are classes of "
        "their own (layers.N.0.projection) and are not read; take the file of the authors of PVT "
        "or SegFormer (patch_embed1.proj), or of Hugging Face or timm",
    ),
    _Kind(
        _has("patch_embed.backbone."),
        "its patches come from a convolutional network (patch_embed.backbone: hybrids, ViTamin), "
        "which a plain ViT has not; take a model whose patches are cut out by one convolution",
    ),
    _Kind(
        _has(".attn.rel_pos.", "shared_rel_pos."),
        "its relative positions (attn.rel_pos, shared_rel_pos: timm's vit_relpos_*, vit_srelpos_*) "
        "are of a kind that this ViT has not; take a model with absolute ones",
    ),
    _Kind(
        _has_all("patch_embed.norm.weight", "blocks.0.norm1.weight"),
        "it has a norm behind its patches (patch_embed.norm: AIMv2), which this ViT has not; take "
        "another model",
    ),
    _Kind(
        _has_all("blocks.0.attn.norm.weight", "blocks.0.attn.qkv.bias"),
        "its attention has a norm of its own (blocks.N.attn.norm: BEiT-3), which this ViT has not; "
        "take BEiT or BEiT v2",
    ),
    _Kind(
        _has("blocks.0.attns.", "blocks.0.in_proj.", "blocks.0.in_norm."),
        "its blocks have attention and perceptron side by side (blocks.N.attns, in_proj: timm's "
        "parallel ViTs), which this ViT has one after the other; take a model without them",
    ),
    _Kind(
        _has(".attn.lambda_q1"),
        "it has differential attention (blocks.N.attn.lambda_q1), which this ViT has not; take a "
        "model without it",
    ),
    _Kind(
        _is_perception_encoder,
        "a Perception Encoder (vit_pe_*), which has CLIP's keys and rotary positions that no key "
        "shows; this ViT has no such ones; take CLIP, OpenCLIP or DINOv3",
    ),
    _Kind(
        _has_all("rope.freqs"),
        "it learned the frequencies of its rotary positions (rope.freqs: vit_*_rope_mixed), which "
        "this ViT calculates; take DINOv3 or EVA-02",
    ),
    _Kind(
        _has_rotary_positions_alone,
        "it has LayerScale and no positions in the file, so that it has rotary ones (vit_*_rope, "
        "Sapiens 2), of another kind than DINOv3's; take DINOv3 or EVA-02",
    ),
    _Kind(
        _has_all("embeds.proj.weight"),
        "its patches are flat vectors (embeds.proj: timm's naflexvit_*), not cut out by a "
        "convolution; take a model with patch_embed.proj",
    ),
)


def reason_against(file: Unwrapped) -> str | None:
    """Return why no backbone of ours can be what a file holds; None: no such reason is known.

    Args:
        file: unwrapped.
    """
    return next((kind.reason for kind in _KINDS if kind.matches(file)), None)


def _may_have_rotary_positions(file: Unwrapped) -> bool:
    """Whether it has the keys of DeiT III, and not the wrapper of its files."""
    names = file.state.keys()
    scaled = {"blocks.0.gamma_1", "blocks.0.attn.qkv.bias", "pos_embed", "cls_token"} <= names
    refused = {"blocks.0.attn1.qkv.weight", "patch_embed.proj.0.weight"} & names
    return bool(
        scaled and not refused and "model" not in file.wrappers and count_class_rows(file) == 0
    )


def _refuse_doubt(file: Unwrapped) -> str | None:  # noqa: ARG001
    return (
        "its keys are those of DeiT III, and of timm's vit_*_rope_ape, which have rotary positions "
        "that this ViT has not; if it is DeiT III, name the source deit3"
    )


# Before DeiT III, which is taken where it is named.
DEIT3_OR_ROTARY = Source(
    name="deit3_or_rope",
    title="DeiT III, or a ViT with rotary positions",
    matches=_may_have_rotary_positions,
    table={},
    refuse=_refuse_doubt,
)

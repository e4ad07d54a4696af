# SPDX-License-Identifier: Apache-2.0
"""Encoders of plain ViTs on their way into a file of ours, or of Detectron2."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.converted import Converted, How, Layout
from vitdet_d2.pretrained.described import describe
from vitdet_d2.pretrained.encoder import POSITIONS, STEM, Encoder
from vitdet_d2.pretrained.fit import check_patch_size, fold_factor
from vitdet_d2.pretrained.only_ours import facts_only_ours, names_only_ours, refuse_only_ours
from vitdet_d2.pretrained.options import arguments_of
from vitdet_d2.pretrained.patch_kernel import PatchResize, resize_patch_kernel

# Of a ViT below a pyramid, in every recipe of ViTDet.
DETECTRON2_PREFIX = "backbone.net."
# The arguments of our ViT that Detectron2's has too.
_DETECTRON2_ARGUMENTS = (
    "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "norm_layer", "qkv_bias",
    "use_abs_pos", "use_rel_pos", "pretrain_img_size", "pretrain_use_cls_token",
)  # fmt: skip


def convert_vit(path: str, encoder: Encoder, how: How) -> Converted:
    """Bring the encoder of a plain ViT to a layout.

    Args:
        path: of the file, for messages.
        encoder: in our names.
        how: as of `convert`.

    Raises:
        WeightsError: its patch kernel must not be resized, or it needs what Detectron2's ViT has
            not.
    """
    encoder = _one_prefix_row(encoder)
    notes = list(encoder.notes)
    if how.patch_size is not None:
        before, encoder = encoder, _with_patches(path, encoder, how.patch_size, how.patch_resize)
        notes += _patch_notes(before, encoder, how.to, how.patch_resize)
    scales = [name for name in encoder.tensors if name.endswith(".gamma")]
    folded = len(scales) if how.to == "detectron2" or how.layer_scale == "fold" else 0
    if how.to == "detectron2":
        lacks = {**names_only_ours(encoder.tensors), **facts_only_ours(encoder.needs)}
        refuse_only_ours(path, encoder.source.title, lacks)
        encoder = _for_detectron2(path, encoder)
    elif folded:
        encoder = _folded(encoder)
    prefix = DETECTRON2_PREFIX if how.to == "detectron2" else ""
    return Converted(
        to=how.to, kind="encoder",
        tensors={prefix + name: value for name, value in encoder.tensors.items()},
        entry=describe(encoder), origin=encoder.source.title, how=encoder.how, folded=folded,
        dropped=encoder.dropped, notes=tuple(notes), backbone="ViT",
        options=_options(encoder, how.to),
    )  # fmt: skip


def _one_prefix_row(encoder: Encoder) -> Encoder:
    """Keep of the rows before the positions of patches the class token's, which models have."""
    if encoder.num_prefix < 2 or POSITIONS not in encoder.tensors:
        return encoder
    positions = encoder.tensors[POSITIONS]
    rows = torch.cat([positions[:, :1], positions[:, encoder.num_prefix :]], dim=1)
    return dataclasses.replace(
        encoder, tensors={**encoder.tensors, POSITIONS: rows}, num_prefix=1
    )  # fmt: skip


def _with_patches(path: str, encoder: Encoder, size: int, method: PatchResize) -> Encoder:
    """Resize the patch kernel, which nobody may do again."""
    old = encoder.patch_size
    check_patch_size(path, encoder, (size, size), "the result")
    kernel = resize_patch_kernel(encoder.tensors[STEM], (size, size), method)
    if kernel is encoder.tensors[STEM]:
        return encoder
    return dataclasses.replace(
        encoder,
        tensors={**encoder.tensors, STEM: kernel},
        patch_is_final=(
            f"its kernel was resized from {old} to {size} pixels when it was converted, and would "
            "lose by it again; take the original file"
        ),
    )


def _patch_notes(before: Encoder, after: Encoder, to: Layout, method: PatchResize) -> list[str]:
    old, new = before.patch_size, after.patch_size
    if old == new:
        return [f"its patches have {new} pixels already: the kernel stays as it was"]
    notes = [f"patch kernel: {old} -> {new} pixels ({method})"]
    if POSITIONS not in after.tensors:
        return notes
    side = math.isqrt(after.tensors[POSITIONS].shape[1] - after.num_prefix)
    line = (
        f"positions: one for each of {side} x {side} patches, as before; that is an image of "
        f"{side * new} pixels now, and was one of {side * old}: pretrain_img_size={side * new}"
    )
    if to == "detectron2":
        return [*notes, f"{line}; Detectron2's loader resizes none, and skips those that differ"]
    return [*notes, f"{line}; loading resizes them for a ViT with another one"]


def _folded(encoder: Encoder) -> Encoder:
    tensors = dict(encoder.tensors)
    for name in encoder.tensors:
        if name.endswith(".gamma"):
            fold_factor(tensors, name)
    return dataclasses.replace(encoder, tensors=tensors)


def _for_detectron2(path: str, encoder: Encoder) -> Encoder:
    """Return what Detectron2's ViT has: a row for a class token, and a bias in every layer.

    Raises:
        WeightsError: positions that are no square grid.
    """
    tensors = dict(_folded(encoder).tensors)
    for name in list(tensors):
        bias = name.removesuffix("weight") + "bias"
        # Convolutional blocks have none.
        if name.endswith("weight") and bias not in tensors and ".residual." not in name:
            tensors[bias] = tensors[name].new_zeros(tensors[name].shape[0])
    if POSITIONS not in tensors:
        return dataclasses.replace(encoder, tensors=tensors)
    positions = tensors[POSITIONS]
    count = positions.shape[1] - encoder.num_prefix
    if math.isqrt(count) ** 2 != count:
        raise WeightsError(
            f"{path}: {count} positions are no square, and Detectron2's ViT takes no other; "
            "convert it with to=vitdet"
        )
    if encoder.num_prefix == 0:
        # ViTs of detection never use this row.
        positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    return dataclasses.replace(encoder, tensors={**tensors, POSITIONS: positions}, num_prefix=1)


def _options(encoder: Encoder, to: Layout) -> dict[str, Any]:
    options = arguments_of(encoder)
    if to == "vitdet":
        return options
    return {name: options[name] for name in _DETECTRON2_ARGUMENTS if name in options}

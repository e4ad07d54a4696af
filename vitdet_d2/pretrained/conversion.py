# SPDX-License-Identifier: Apache-2.0
"""Weights of any known source, brought to the names of our ViT or of Detectron2's detectors.

Vocabulary:
    layout: ``vitdet``: the names of a bare ViT of ours; ``detectron2``: those of its backbone in a
        detector, where LayerScale is folded and every layer has its bias. A whole detector keeps
        its names.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.pretrained.container import Unwrapped, unwrap
from vitdet_d2.pretrained.convert_detector import detector_for_detectron2, fold_detector
from vitdet_d2.pretrained.described import describe, written_by
from vitdet_d2.pretrained.encoder import POSITIONS, STEM, Encoder
from vitdet_d2.pretrained.entry import SCHEMA, checked_entry
from vitdet_d2.pretrained.fit import check_patch_size, fold_factor
from vitdet_d2.pretrained.only_ours import facts_only_ours, names_only_ours, refuse_only_ours
from vitdet_d2.pretrained.options import arguments_of
from vitdet_d2.pretrained.other_detector import encoder_within
from vitdet_d2.pretrained.patch_kernel import PatchResize, resize_patch_kernel
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.pretrained.recognise import encoder_of
from vitdet_d2.zoo.addresses import redact
from vitdet_d2.zoo.initialisations import source_of

Layout = Literal["vitdet", "detectron2"]

# Of a ViT below a pyramid, in every recipe of ViTDet.
DETECTRON2_PREFIX = "backbone.net."
# The arguments of our ViT that Detectron2's has too.
_DETECTRON2_ARGUMENTS = (
    "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "norm_layer", "qkv_bias",
    "use_abs_pos", "use_rel_pos", "pretrain_img_size", "pretrain_use_cls_token",
)  # fmt: skip
# Far beyond the patches of any ViT; the resize matrix grows with the fourth power.
_MAX_PATCH = 64


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Weights in one of the layouts, ready to be written by `write_weights`.

    Attributes:
        to: the layout.
        kind: a bare ``encoder``, or a whole ``detector``.
        tensors: by name.
        entry: what the tensors do not say; see `entry`.
        origin: what the weights are.
        how: how that was recognised.
        folded: number of factors of LayerScale that are within other tensors now.
        dropped: names that are left out.
        notes: what the user should know, a line each.
        vit_options: arguments of the ViT that takes them, of ours or of Detectron2's; None: a
            detector, which its recipe builds.
    """

    to: Layout
    kind: Literal["encoder", "detector"]
    tensors: dict[str, Tensor]
    entry: dict[str, Any]
    origin: str
    how: str
    folded: int
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    vit_options: dict[str, Any] | None


def convert(
    weights: str | os.PathLike[str],
    *,
    to: Layout = "vitdet",
    source: str | None = None,
    layer_scale: Literal["keep", "fold"] = "keep",
    patch_size: int | None = None,
    patch_resize: PatchResize = "pinv",
) -> Converted:
    """Read weights, and bring them to a layout.

    Args:
        weights: path, address or name, as `read_weights` takes it.
        to: the layout.
        source: what they are, where neither their keys nor their name tell it.
        layer_scale: ``keep`` LayerScale, or ``fold`` it into the layers before it; for
            ``detectron2`` it is folded always.
        patch_size: side in pixels to which the kernel of the patch embedding is resized; None: as
            it is. Positions stay one per patch.
        patch_resize: how, as of `resize_patch_kernel`.

    Raises:
        DownloadError: they cannot be downloaded now.
        RecipeError: options that do not exist, or are for encoders alone.
        WeightsError: they cannot be read, are of no known source, have a patch kernel that must
            not be resized, or need what Detectron2's ViT has not.
    """
    _check_options(to, layer_scale, patch_size)
    path = redact(os.fspath(weights))
    file = unwrap(path, read_weights(weights))
    file = encoder_within(file) or file
    if file.is_detector:
        if patch_size is not None:
            raise RecipeError(
                f"{path}: patch_size={patch_size} is for encoders, and this is a whole detector, "
                "which was trained with its patches; leave it out"
            )
        return _convert_detector(path, file, to, layer_scale, source)
    encoder = _one_prefix_row(encoder_of(path, file, source or source_of(os.fspath(weights))))
    notes = list(encoder.notes)
    if patch_size is not None:
        before, encoder = encoder, _with_patches(path, encoder, patch_size, patch_resize)
        notes += _patch_notes(before, encoder, to, patch_resize)
    scales = [name for name in encoder.tensors if name.endswith(".gamma")]
    folded = len(scales) if to == "detectron2" or layer_scale == "fold" else 0
    if to == "detectron2":
        lacks = {**names_only_ours(encoder.tensors), **facts_only_ours(encoder.needs)}
        refuse_only_ours(path, encoder.source.title, lacks)
        encoder = _for_detectron2(path, encoder)
    elif folded:
        encoder = _folded(encoder)
    prefix = DETECTRON2_PREFIX if to == "detectron2" else ""
    return Converted(
        to=to, kind="encoder",
        tensors={prefix + name: value for name, value in encoder.tensors.items()},
        entry=describe(encoder), origin=encoder.source.title, how=encoder.how, folded=folded,
        dropped=encoder.dropped, notes=tuple(notes), vit_options=_vit_options(encoder, to),
    )  # fmt: skip


def _check_options(to: str, layer_scale: str, patch_size: int | None) -> None:
    """Refuse what is no option.

    Raises:
        RecipeError: it is none.
    """
    for name, value, known in (
        ("to", to, ("vitdet", "detectron2")), ("layer_scale", layer_scale, ("keep", "fold"))
    ):  # fmt: skip
        if value not in known:
            raise RecipeError(f"{name}: expected {' or '.join(known)}, got {value!r}")
    if patch_size is not None and not 1 <= patch_size <= _MAX_PATCH:
        raise RecipeError(f"patch_size: expected 1 to {_MAX_PATCH} pixels, got {patch_size}")


def _convert_detector(
    path: str, file: Unwrapped, to: Layout, layer_scale: str, source: str | None
) -> Converted:
    tensors = dict(file.state)
    entry = checked_entry(path, file.entry) or {"schema": SCHEMA}
    notes = []
    if source is not None:
        notes.append(f"source={source} is not used: the names of a detector tell all")
    left_out = tuple(name for name in file.siblings if not name.startswith("__"))
    left_out = tuple(name for name in left_out if name not in ("vitdet_d2", "matching_heuristics"))
    if "ema" in left_out:
        notes.append(
            "the averaged weights (ema) are left out, as training continues with the others; "
            "those of a run's end are in model_ema_final.pth"
        )
    folded = 0
    if to == "detectron2":
        tensors, entry, folded = detector_for_detectron2(path, tensors, entry)
        if not entry.get("recipe") and "__author__" not in file.siblings:
            notes.append(
                "it carries no recipe: options that no tensor shows (rotary positions, the "
                "activation, shifted windows) are not compared with Detectron2's"
            )
    elif layer_scale == "fold":
        tensors, entry, folded = fold_detector(tensors, entry)
    return Converted(
        to=to, kind="detector", tensors=tensors, entry={**entry, "written_by": written_by()},
        origin="a detector", how="by the names of its tensors", folded=folded, dropped=left_out,
        notes=tuple(notes), vit_options=None,
    )  # fmt: skip


# ---------------------------------------------------------------------------------- an encoder


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


def _vit_options(encoder: Encoder, to: Layout) -> dict[str, Any]:
    options = arguments_of(encoder)
    if to == "vitdet":
        return options
    return {name: options[name] for name in _DETECTRON2_ARGUMENTS if name in options}

# SPDX-License-Identifier: Apache-2.0
"""Weights of any known source, brought to the names of our backbones or of Detectron2's detectors.

The layouts are explained in `converted`.
"""

from __future__ import annotations

import os
from typing import Literal

from vitdet_d2.errors import RecipeError
from vitdet_d2.pretrained.container import Unwrapped, unwrap
from vitdet_d2.pretrained.convert_detector import detector_for_detectron2, fold_detector
from vitdet_d2.pretrained.convert_pyramid import convert_pyramid, refuse_detectron2
from vitdet_d2.pretrained.convert_vit import DETECTRON2_PREFIX, convert_vit
from vitdet_d2.pretrained.converted import Converted, How, Layout
from vitdet_d2.pretrained.described import written_by
from vitdet_d2.pretrained.entry import SCHEMA, checked_entry
from vitdet_d2.pretrained.family import PLAIN_VIT, PYRAMID
from vitdet_d2.pretrained.other_detector import encoder_within
from vitdet_d2.pretrained.patch_kernel import PatchResize
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.pretrained.recognise import encoder_of
from vitdet_d2.zoo.addresses import redact
from vitdet_d2.zoo.initialisations import source_of

__all__ = ["DETECTRON2_PREFIX", "Converted", "Layout", "convert"]

_CONVERTERS = {PLAIN_VIT: convert_vit, PYRAMID: convert_pyramid}
# Far beyond the patches of any ViT; the resize matrix grows with the fourth power.
_MAX_PATCH = 64


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
            not be resized, or need what Detectron2's backbones have not.
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
    encoder = encoder_of(path, file, source or source_of(os.fspath(weights)))
    how = How(to=to, layer_scale=layer_scale, patch_size=patch_size, patch_resize=patch_resize)
    return _CONVERTERS[encoder.source.family](path, encoder, how)


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
        if PYRAMID.prefix_in(tensors) is not None:
            refuse_detectron2(path, "the backbone of this detector")
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
        notes=tuple(notes),
    )  # fmt: skip

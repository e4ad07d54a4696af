# SPDX-License-Identifier: Apache-2.0
"""Weights of any source as files of ours or of Detectron2."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import unwrap
from vitdet_d2.pretrained.described import describe
from vitdet_d2.pretrained.encoder import POSITIONS, STEM, Encoder
from vitdet_d2.pretrained.fit import fit
from vitdet_d2.pretrained.other_detector import encoder_within
from vitdet_d2.pretrained.patch_kernel import PatchResize, resize_patch_kernel
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.pretrained.recognise import encoder_of
from vitdet_d2.zoo.initialisations import source_of

Layout = Literal["vitdet", "detectron2"]

# Parts of names that Detectron2's ViT has nothing for.
_NOT_IN_DETECTRON2 = {
    "relative_position_bias_table": "tables of relative position biases",
    "norm_pre.": "a norm before the blocks",
    ".mlp.w1.": "gated perceptrons",
    ".mlp.ffn_ln.": "norms in its perceptrons",
}


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What is to be written.

    Attributes:
        tensors: by name.
        metadata: texts by name; empty for a detector.
        origin: what the weights are.
        how: how that was recognised.
        folded: number of factors of LayerScale that are within other tensors now.
        dropped: names that are left out.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    origin: str
    how: str
    folded: int = 0
    dropped: tuple[str, ...] = ()


def convert_weights(
    weights: str,
    *,
    to: Layout = "vitdet",
    source: str | None = None,
    layer_scale: Literal["keep", "fold"] = "keep",
    patch_size: int | None = None,
    patch_resize: PatchResize = "pinv",
) -> Converted:
    """Read weights, and bring them to the names of our ViT or of Detectron2's detectors.

    Args:
        weights: path, address or name.
        to: for ``detectron2``, names begin with ``backbone.net.``, LayerScale is folded, positions
            have one row for a class token, and missing biases are zeros.
        source: what they are, where their keys or their name do not tell it.
        layer_scale: keep LayerScale, or fold it into the layers before it.
        patch_size: that the kernel of the patch embedding is resized to; None: as it is.
        patch_resize: how.

    Raises:
        WeightsError: they cannot be read, or Detectron2's ViT cannot do what they need.
    """
    file = unwrap(weights, read_weights(weights))
    file = encoder_within(file) or file
    if file.is_detector:
        return Converted(
            tensors=dict(file.state), metadata={}, origin="a detector", how="by its names"
        )
    encoder = encoder_of(weights, file, source or source_of(os.fspath(weights)))
    if patch_size is not None:
        kernel = resize_patch_kernel(encoder.tensors[STEM], (patch_size, patch_size), patch_resize)
        encoder = dataclasses.replace(encoder, tensors={**encoder.tensors, STEM: kernel})
    scales = [name for name in encoder.tensors if name.endswith(".gamma")]
    fold = to == "detectron2" or layer_scale == "fold"
    if to == "detectron2":
        _require_detectron2(weights, encoder)
        tensors = _for_detectron2(weights, encoder)
    else:
        tensors = _folded(weights, encoder) if fold and scales else dict(encoder.tensors)
    return Converted(
        tensors=tensors,
        metadata=describe(encoder) if to == "vitdet" else {},
        origin=encoder.source.title,
        how=encoder.how,
        folded=len(scales) if fold else 0,
        dropped=encoder.dropped,
    )


def _require_detectron2(path: str, encoder: Encoder) -> None:
    """Refuse what Detectron2's ViT cannot do.

    Raises:
        WeightsError: it is named.
    """
    lacks = [
        words
        for part, words in _NOT_IN_DETECTRON2.items()
        if any(part in name for name in encoder.tensors)
    ]
    if encoder.needs.rope is not None:
        lacks.append(f"{encoder.needs.rope} rotary positions")
    if encoder.needs.act == "quick_gelu":
        lacks.append("QuickGELU")
    if lacks:
        raise WeightsError(
            f"{path}: Detectron2's ViT cannot be {encoder.source.title}: it has no "
            f"{', no '.join(lacks)}; convert it with --to vitdet, and use our ViT"
        )


def _folded(path: str, encoder: Encoder) -> dict[str, Tensor]:
    """Fold LayerScale, and leave all else as it is."""
    wanted = {name: value for name, value in encoder.tensors.items() if _may_stay(name)}
    positions = wanted.pop(POSITIONS, None)
    part = dataclasses.replace(
        encoder, tensors={n: v for n, v in encoder.tensors.items() if n != POSITIONS}
    )
    fitted = fit(path, part, wanted, has_class_position=False, layer_scale="fold")
    return {**({} if positions is None else {POSITIONS: positions}), **fitted.tensors}


def _for_detectron2(path: str, encoder: Encoder) -> dict[str, Tensor]:
    wanted = {name: value for name, value in encoder.tensors.items() if _may_stay(name)}
    if POSITIONS in wanted:
        count = wanted[POSITIONS].shape[1] - encoder.num_prefix
        wanted[POSITIONS] = torch.empty(1, 1 + count, encoder.width, device="meta")
    for name in list(wanted):
        bias = name.removesuffix("weight") + "bias"
        if name.endswith("weight") and bias not in wanted:
            wanted[bias] = torch.empty(wanted[name].shape[0], device="meta")
    fitted = fit(path, encoder, wanted, has_class_position=True, layer_scale="fold")
    return {f"backbone.net.{name}": value for name, value in fitted.tensors.items()}


def _may_stay(name: str) -> bool:
    return not name.endswith(".gamma")

# SPDX-License-Identifier: Apache-2.0
"""The arguments with which our pyramid transformers take the weights of a file as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from vitdet_d2.backbones import PVT, MiT, PVTv2
from vitdet_d2.backbones.pyramid_options import MAP_STRIDES
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.family import PYRAMID
from vitdet_d2.pretrained.fit_pyramid import trained_pixels
from vitdet_d2.pretrained.options import read_encoder
from vitdet_d2.pretrained.place_pyramid import trunk_of
from vitdet_d2.pretrained.pyramid_trunk import known_heads

_MIT_SOURCES = ("mit", "hugging_face_segformer")
_POSITIONS = "pos_embed1"


def pyramid_options(
    weights: str | os.PathLike[str] | Mapping[str, Any], *, source: str | None = None
) -> dict[str, Any]:
    """Return arguments of a pyramid transformer that fit a file of an encoder.

    Drop path, freezing and the maps are the user's; `PVT(**pyramid_options(path))`, or `PVTv2` or
    `MiT`, is the encoder as it was trained.

    Args:
        weights: path, address or name as `read_weights` takes it, or what that returned.
        source: name of the source, where its keys cannot tell it.

    Raises:
        WeightsError: the file cannot be read, or is of no known pyramid transformer.
    """
    path, encoder = read_encoder(weights, source)
    if encoder.source.family is not PYRAMID:
        raise WeightsError(
            f"{path}: {encoder.source.title} is {encoder.source.family.title}; vit_options gives "
            f"the arguments of {encoder.source.family.takers}"
        )
    return arguments_of_pyramid(path, encoder)


def class_of(path: str, encoder: Encoder) -> type[PVT] | type[PVTv2] | type[MiT]:
    """Return the class that an encoder is of.

    Args:
        path: of the file, for messages.
        encoder: of a pyramid transformer.

    Raises:
        WeightsError: it is incomplete.
    """
    if not trunk_of(path, encoder).overlapping:
        return PVT
    return MiT if encoder.source.name in _MIT_SOURCES else PVTv2


def arguments_of_pyramid(path: str, encoder: Encoder) -> dict[str, Any]:
    """Return what `pyramid_options` does, of an encoder that was read already.

    Args:
        path: of the file, for messages.
        encoder: of a pyramid transformer.

    Raises:
        WeightsError: it is incomplete.
    """
    names, trunk = encoder.tensors, trunk_of(path, encoder)
    if not all((*trunk.depths, *trunk.hidden)):
        raise WeightsError(
            f"{path}: {encoder.source.title}: some of its stages have no block ({trunk}); get the "
            "file again"
        )
    options: dict[str, Any] = {
        "embed_dims": _four(trunk.widths),
        "depths": _four(trunk.depths),
        "mlp_ratios": _four(trunk.mlp_ratios),
        "qkv_bias": "block1.0.attn.q.bias" in names,
        "in_chans": names[PYRAMID.stem].shape[1],
    }
    heads = known_heads(trunk)
    if None not in heads:
        options["num_heads"] = _four(heads)
    if not trunk.is_linear:
        options["sr_ratios"] = _four([max(side, 1) for side in trunk.reductions])
    if len(trunk.widths) < len(MAP_STRIDES):
        options["out_features"] = list(MAP_STRIDES)[: len(trunk.widths)]
    if class_of(path, encoder) is PVTv2:
        options["linear"] = trunk.is_linear
    if _POSITIONS in names:
        options["pretrain_img_size"] = trained_pixels(names[_POSITIONS].shape[1])
    return options


def _four(values: Sequence[Any]) -> list[Any]:
    """Return a number for each stage; those that are not built repeat the last one's."""
    return [*values, *[values[-1]] * (len(MAP_STRIDES) - len(values))]

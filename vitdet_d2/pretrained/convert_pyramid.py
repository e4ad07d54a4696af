# SPDX-License-Identifier: Apache-2.0
"""Encoders of pyramid transformers on their way into a file of ours; Detectron2 has none."""

from __future__ import annotations

from typing import NoReturn

from vitdet_d2.errors import RecipeError, WeightsError
from vitdet_d2.pretrained.converted import Converted, How
from vitdet_d2.pretrained.described import describe
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.options_pyramid import arguments_of_pyramid, class_of


def convert_pyramid(path: str, encoder: Encoder, how: How) -> Converted:
    """Bring the encoder of a pyramid transformer to our names.

    Args:
        path: of the file, for messages.
        encoder: in our names.
        how: as of `convert`; there is no LayerScale that could be folded.

    Raises:
        RecipeError: a patch size.
        WeightsError: Detectron2 is asked to take it, or it is incomplete.
    """
    if how.patch_size is not None:
        raise RecipeError(
            f"{path}: patch_size={how.patch_size} is for plain ViTs, and {encoder.source.title} "
            "has kernels of several sizes, one for each stage; leave it out"
        )
    if how.to == "detectron2":
        refuse_detectron2(path, encoder.source.title)
    return Converted(
        to=how.to, kind="encoder", tensors=dict(encoder.tensors), entry=describe(encoder),
        origin=encoder.source.title, how=encoder.how, folded=0, dropped=encoder.dropped,
        notes=encoder.notes, backbone=class_of(path, encoder).__name__,
        options=arguments_of_pyramid(path, encoder),
    )  # fmt: skip


def refuse_detectron2(path: str, title: str) -> NoReturn:
    """Say that Detectron2 has no pyramid transformer.

    Args:
        path: of the file.
        title: what the weights are.

    Raises:
        WeightsError: always.
    """
    raise WeightsError(
        f"{path}: Detectron2 has no pyramid transformer, and cannot be {title}; convert it with "
        "--to vitdet, and use our PVT, PVTv2 or MiT, which work with Detectron2 too"
    )

# SPDX-License-Identifier: Apache-2.0
"""Encoders of pyramid transformers on their way into one: a PVT, a PVTv2, or a MiT."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.choices import Choices
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.family import PYRAMID
from vitdet_d2.pretrained.fit_pyramid import fit_pyramid, trained_pixels
from vitdet_d2.pretrained.fitted import Fitted
from vitdet_d2.pretrained.identity import Identity, identify
from vitdet_d2.pretrained.placement import Placement, check_fitted
from vitdet_d2.pretrained.pyramid_trunk import PyramidTrunk, known_heads, pyramid_trunk
from vitdet_d2.pretrained.refusals import check_size

_STAGE = re.compile(r"(?:patch_embed|pos_embed|block|norm)(\d)(?:\.|$)")
_POSITIONS = "pos_embed1"


def place_pyramid(
    path: str,
    file: Unwrapped,
    encoder: Encoder,
    backbone: nn.Module,
    names: Mapping[str, Tensor],
    ours: Identity,
    choices: Choices,
) -> Placement:
    """Check an encoder against a pyramid transformer, and fit it.

    Args:
        path: of the file, for messages.
        file: unwrapped.
        encoder: from the file.
        backbone: that takes it.
        names: its state dict.
        ours: what the model is, whose part it is.
        choices: of the user.

    Raises:
        WeightsError: it does not fit.
    """
    theirs = dataclasses.replace(identify(file.state), trunk=trunk_of(path, encoder))
    encoder = _without_later_stages(encoder, names)
    differences = [
        (name, tuple(tensor.shape), tuple(names[name].shape))
        for name, tensor in encoder.tensors.items()
        if name in names and tensor.shape != names[name].shape and "pos_embed" not in name
    ]
    check_size(path, theirs, ours, allow_partial=choices.allow_partial, differences=differences)
    _check_heads(path, encoder, backbone, trunk_of(path, encoder))
    fitted = fit_pyramid(path, encoder, names, position_grid=choices.position_grid)
    check_fitted(path, encoder, fitted, theirs, ours, choices)
    if not choices.allow_partial:
        _require_positions(path, encoder, fitted)
    moved = _moved_positions(encoder, names)
    return Placement(
        encoder=encoder, fitted=fitted, identity=theirs, alerts=tuple(filter(None, [moved]))
    )


def trunk_of(path: str, encoder: Encoder) -> PyramidTrunk:
    """Return what an encoder is.

    Args:
        path: of the file, for messages.
        encoder: of a pyramid transformer.

    Raises:
        WeightsError: there is not even a first block.
    """
    trunk = pyramid_trunk(encoder.tensors)
    if trunk is None:
        raise WeightsError(
            f"{path}: read as {encoder.source.title} ({encoder.how}): no block in it "
            f"({PYRAMID.first_block}...); get the file again"
        )
    return trunk


def _without_later_stages(encoder: Encoder, names: Mapping[str, Tensor]) -> Encoder:
    """Leave out the stages that a model, which returns the maps of earlier ones, does not have."""
    built = {found[1] for name in names if (found := _STAGE.match(name))}
    beyond = [
        name
        for name in encoder.tensors
        if (found := _STAGE.match(name)) and found[1] > max(built, default="")
    ]
    if not beyond:
        return encoder
    stages = ", ".join(sorted({found[1] for name in beyond if (found := _STAGE.match(name))}))
    note = f"stage {stages} is left out: the model's out_features end before it"
    return dataclasses.replace(
        encoder,
        tensors={name: t for name, t in encoder.tensors.items() if name not in beyond},
        dropped=(*encoder.dropped, *beyond),
        notes=(*encoder.notes, note),
    )


def _require_positions(path: str, encoder: Encoder, fitted: Fitted) -> None:
    """Refuse a file without the positions of the model's stages: random ones spoil its features.

    Raises:
        WeightsError: some are missing.
    """
    lost = [name for name in fitted.missing if name.startswith("pos_embed")]
    if lost:
        raise WeightsError(
            f"{path}: {encoder.source.title}: no {', '.join(lost)}, and its blocks were trained "
            "with them; get the file again, or load it with allow_partial=True "
            "(train.init_options.allow_partial=true), which leaves them at random"
        )


def _check_heads(path: str, encoder: Encoder, backbone: nn.Module, trunk: PyramidTrunk) -> None:
    """Refuse a model with other attention heads than all known ones of these widths.

    Raises:
        WeightsError: it has.
    """
    found = known_heads(trunk)
    ours = tuple(_heads(backbone, stage) for stage in range(1, len(trunk.widths) + 1))
    if any(None not in pair and pair[0] != pair[1] for pair in zip(found, ours, strict=True)):
        shown = [theirs or own for theirs, own in zip(found, ours, strict=True)]
        raise WeightsError(
            f"{path}: {encoder.source.title} does not fit this model: at widths "
            f"{list(trunk.widths)} it has {shown} attention heads, the model {list(ours)} (the "
            f"shapes are the same, the features are not). In a recipe: {PYRAMID.recipe_prefix}"
            f"num_heads=[{','.join(map(str, shown))}]"
        )


def _heads(backbone: nn.Module, stage: int) -> int | None:
    blocks: Any = getattr(backbone, f"block{stage}", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        return None
    return getattr(getattr(blocks[0], "attn", None), "num_heads", None)


def _moved_positions(encoder: Encoder, names: Mapping[str, Tensor]) -> str:
    """Say that positions are resized here, and once more for each image; nothing if they stay."""
    if _POSITIONS not in encoder.tensors or _POSITIONS not in names:
        return ""
    found, wanted = (
        trained_pixels(state[_POSITIONS].shape[1]) for state in (encoder.tensors, names)
    )
    if found == wanted:
        return ""
    return (
        f"the positions of the file are those of images of {found} pixels, the model's of "
        f"{wanted}: they are resized, and once more to each image; {PYRAMID.recipe_prefix}"
        f"pretrain_img_size={found} keeps them as they are"
    )

# SPDX-License-Identifier: Apache-2.0
"""Facts of an encoder that its file cannot tell, and the model can: each is an alert.

A state dict of our own ViT shows neither its activation nor its rotary positions, and a plain ViT
of a size of its own does not show its heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from torch import nn

from vitdet_d2.backbones import ViT
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.encoder import Encoder, convert
from vitdet_d2.pretrained.needs import differs_in_activation, sources_with
from vitdet_d2.pretrained.sources.eva01 import EVA01
from vitdet_d2.pretrained.sources.eva02 import EVA02
from vitdet_d2.pretrained.sources.plain import PLAIN
from vitdet_d2.pretrained.traits import Traits, traits_of

# What a state dict of ours may be taken for, by its keys alone.
_TAKEN_FOR = (PLAIN, EVA02, EVA01)


def complete(
    path: str,
    file: Unwrapped,
    encoder: Encoder,
    vit: nn.Module,
    names: Collection[str],
    source: str | None,
) -> tuple[Encoder, tuple[str, ...]]:
    """Complete an encoder with what only the model can tell.

    Args:
        path: of the file, for messages.
        file: unwrapped.
        encoder: from the file.
        vit: that takes it.
        names: of the ViT's state dict.
        source: of the file, if the user named it; then it is that.

    Returns:
        The encoder, and an alert for each fact that was taken from the model.

    Raises:
        WeightsError: its tensors cannot be used.
    """
    traits = traits_of(vit)
    alerts = []
    if source is None and isinstance(vit, ViT) and _is_ours(file, encoder, names):
        options = _differing_options(encoder, traits)
        if options:
            encoder = _as_ours(path, file, traits)
            alerts.append(
                "its names are those of this ViT, and no tensor shows its activation and its "
                f"rotary positions: taken from the model ({' '.join(options)}); right if, and "
                "only if, it was saved from such a model"
            )
    if _has_heads_of_its_own(encoder, traits):
        alerts.append(
            f"no tensor shows how many attention heads it has: taken are the model's "
            f"{traits.num_heads}, where known ViTs of width {encoder.width} have "
            f"{encoder.num_heads}; with others than in pre-training the features are wrong"
        )
        encoder = dataclasses.replace(encoder, num_heads=traits.num_heads)
    return encoder, tuple(alerts)


def _is_ours(file: Unwrapped, encoder: Encoder, names: Collection[str]) -> bool:
    """Whether a file has exactly the model's names, and nothing else that tells what it is."""
    told = file.entry is not None or file.beside or set(file.state) != set(names)
    return not told and any(encoder.source is one for one in _TAKEN_FOR)


def _has_heads_of_its_own(encoder: Encoder, traits: Traits) -> bool:
    """Whether a plain ViT has, in this model, as many heads as no source has at its width."""
    found, wanted = encoder.num_heads, traits.num_heads
    if encoder.source.name != PLAIN.name or None in (found, wanted) or found == wanted:
        return False
    return not sources_with(encoder.width, wanted)


def _differing_options(encoder: Encoder, traits: Traits) -> list[str]:
    options = []
    if encoder.needs.rope != traits.rope:
        options.append(f"rope={traits.rope or 'null'}")
    if differs_in_activation(encoder.needs, traits):
        options.append(f"act={traits.act}")
    return options


def _as_ours(path: str, file: Unwrapped, traits: Traits) -> Encoder:
    encoder = convert(path, file, PLAIN, "by the names of its tensors, which are the model's")
    # Other activations than those with a name are classes of the user's.
    facts: dict[str, Any] = {"rope": traits.rope}
    facts |= {} if traits.act is None else {"act": traits.act}
    facts |= {} if traits.eps is None else {"eps": traits.eps}
    return dataclasses.replace(encoder, needs=dataclasses.replace(encoder.needs, **facts))

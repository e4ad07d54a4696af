# SPDX-License-Identifier: Apache-2.0
"""DINOv3 as transformers stores it: rotary positions only, and no bias of the keys.

Source: huggingface/transformers, ``models/dinov3_vit``.
"""

from __future__ import annotations

import dataclasses

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import SATELLITE, Normalisation
from vitdet_d2.pretrained.source import Needs, Source
from vitdet_d2.pretrained.sources.dinov3 import DINOV3_HEADS, NOT_TOLD, statistics_of_width
from vitdet_d2.pretrained.sources.hugging_face_names import (
    ATTENTION,
    EMBEDDINGS,
    GATED,
    LAYER_SCALE,
    blocks,
    registers_note,
)

_PATCHES = "embeddings.patch_embeddings.weight"
# On disk, in memory since version 5, and in memory of a backbone.
_PLACES = ("layer", "model.layer", "encoder.layer")
_NORMS: KeyTable = {
    "norm1.{rest}": "norm1.{rest}",
    "norm2.{rest}": "norm2.{rest}",
}
_UNGATED: KeyTable = {
    "mlp.up_proj.{rest}": "mlp.fc1.{rest}",
    "mlp.down_proj.{rest}": "mlp.fc2.{rest}",
}


def _matches(file: Unwrapped) -> bool:
    return _PATCHES in file.state


def _table(file: Unwrapped) -> KeyTable:
    """The last layer of a gated perceptron has the name that it has without a gate."""
    gated = any(".mlp.gate_proj." in name for name in file.state)
    return {
        **EMBEDDINGS,
        "embeddings.patch_embeddings.{rest}": "patch_embed.proj.{rest}",
        **blocks(_NORMS, ATTENTION, LAYER_SCALE, GATED if gated else _UNGATED, places=_PLACES),
        "norm.{rest}": None,
    }


def _needs(file: Unwrapped) -> Needs:  # noqa: ARG001
    return Needs(eps=1e-5, rope="half")


def _no_positions(file: Unwrapped) -> int:  # noqa: ARG001
    return 0


def _normalisation(file: Unwrapped) -> Normalisation | None:
    return statistics_of_width(file.state[_PATCHES].shape[0])


def _notes(file: Unwrapped) -> tuple[str, ...]:
    return (*registers_note(file), *(() if _normalisation(file) else (NOT_TOLD,)))


HUGGING_FACE_DINOV3 = Source(
    name="hugging_face_dinov3",
    title="DINOv3 of Hugging Face",
    matches=_matches,
    table=_table,
    normalisation=_normalisation,
    notes=_notes,
    num_prefix=_no_positions,
    needs=_needs,
    heads=DINOV3_HEADS,
    origins=("dinov3",),
)
# Recognised only where it is named: it comes after the other.
HUGGING_FACE_DINOV3_SAT = dataclasses.replace(
    HUGGING_FACE_DINOV3,
    name="hugging_face_dinov3_sat",
    title="DINOv3 of Hugging Face for satellite images",
    normalisation=SATELLITE,
    notes=registers_note,
    origins=("dinov3_sat",),
)

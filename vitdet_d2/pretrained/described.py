# SPDX-License-Identifier: Apache-2.0
"""Encoders that we converted: in our names, with the facts of their source as the entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import vitdet_d2
from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.encoder import BLOCK_BIAS, POSITIONS, SHARED_BIAS, Encoder
from vitdet_d2.pretrained.entry import SCHEMA, checked_entry, is_encoder
from vitdet_d2.pretrained.family import FAMILIES, PLAIN_VIT, PYRAMID, Family
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import Normalisation
from vitdet_d2.pretrained.source import Needs, Source
from vitdet_d2.pretrained.sources.plain import ENCODER, OWN
from vitdet_d2.pretrained.sources.pvt import ENCODER as PYRAMID_V1
from vitdet_d2.pretrained.sources.pvt_v2 import ENCODER as PYRAMID_V2

# Every name that an encoder of a family can have after its conversion.
_CANONICAL: Mapping[Family, KeyTable] = {
    PLAIN_VIT: {
        **ENCODER,
        **OWN,
        SHARED_BIAS: SHARED_BIAS,
        f"blocks.{{n}}.{BLOCK_BIAS}": f"blocks.{{n}}.{BLOCK_BIAS}",
    },
    PYRAMID: {**PYRAMID_V1, **PYRAMID_V2},
}


def describe(encoder: Encoder) -> dict[str, Any]:
    """Return the facts of an encoder that its tensors do not show, as the entry of a file.

    Args:
        encoder: in our names.
    """
    statistics = encoder.normalisation
    return {
        "schema": SCHEMA,
        "written_by": written_by(),
        "source": encoder.source.name,
        "title": encoder.source.title,
        "num_prefix": encoder.num_prefix,
        "num_heads": encoder.num_heads,
        "needs": asdict(encoder.needs),
        "normalisation": None if statistics is None else _plain(statistics),
        "patch_is_final": encoder.patch_is_final,
        "notes": list(encoder.notes),
    }


def written_by() -> str:
    """Return what writes files here, with its version."""
    return f"vitdet_d2 {vitdet_d2.__version__}"


def described_source(path: str, file: Unwrapped) -> Source | None:
    """Return the source that a converted file says it is of; None: it says nothing.

    Args:
        path: of the file, for messages.
        file: unwrapped.

    Raises:
        WeightsError: what it says is damaged, or contradicts its tensors.
    """
    entry = checked_entry(path, file.entry)
    if entry is None or not is_encoder(entry):
        return None
    _check_agreement(path, file, entry)
    needs = Needs(**entry["needs"])
    heads, prefix, final = entry["num_heads"], entry["num_prefix"], entry["patch_is_final"]
    family = _family_of(file)
    assert family is not None, "checked"
    notes = tuple(entry["notes"])
    return Source(
        name=entry["source"],
        title=entry["title"],
        matches=lambda _: True,
        table=_CANONICAL[family],
        normalisation=_normalisation(entry["normalisation"]),
        num_prefix=lambda _: prefix,
        needs=lambda _: needs,
        heads={} if heads is None else {file.state[family.stem].shape[0]: heads},
        notes=lambda _: notes,
        patch_is_final=lambda _: final,
        evidence="what its conversion wrote into it",
        family=family,
    )


def _family_of(file: Unwrapped) -> Family | None:
    return next((family for family in FAMILIES if family.stem in file.state), None)


def _check_agreement(path: str, file: Unwrapped, entry: Mapping[str, Any]) -> None:
    """Refuse an entry that belongs to other tensors.

    Raises:
        WeightsError: it does.
    """
    family, positions = _family_of(file), file.state.get(POSITIONS)
    stem = None if family is None else file.state[family.stem]
    problem = None
    if stem is None or stem.dim() != 4:
        kernels = " or ".join(family.stem for family in FAMILIES)
        problem = f"it is for an encoder in our names, and there is no kernel {kernels}"
    elif entry["num_heads"] is not None and stem.shape[0] % entry["num_heads"]:
        problem = f"num_heads is {entry['num_heads']}, for {stem.shape[0]} channels"
    elif positions is not None and (
        positions.dim() != 3 or positions.shape[1] <= entry["num_prefix"]
    ):
        shape = tuple(positions.shape)
        problem = f"num_prefix is {entry['num_prefix']}, for positions {shape}"
    elif family is PYRAMID and (entry["num_prefix"] or Needs(**entry["needs"]) != Needs()):
        problem = "num_prefix and needs are a plain ViT's, for a pyramid transformer"
    if problem is not None:
        raise WeightsError(
            f"{path}: its entry 'vitdet_d2' is not of these tensors: {problem}; get the file "
            "again, or convert it again"
        )


def _plain(statistics: Normalisation) -> dict[str, Any]:
    return {
        "name": statistics.name, "mean": list(statistics.mean), "std": list(statistics.std)
    }  # fmt: skip


def _normalisation(saved: Mapping[str, Any] | None) -> Normalisation | None:
    if saved is None:
        return None
    red, green, blue = map(float, saved["mean"])
    reds, greens, blues = map(float, saved["std"])
    return Normalisation(
        name=saved["name"], mean=(red, green, blue), std=(reds, greens, blues)
    )  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Encoders that we converted: our names, and the facts of their source as texts beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.normalisation import Normalisation
from vitdet_d2.pretrained.source import Needs, Source

# Metadata of .safetensors are texts by name; ours are one JSON text, under this name.
KEY = "vitdet_d2"


def describe(encoder: Encoder) -> dict[str, str]:
    """Return the facts of an encoder that its tensors do not show, as metadata.

    Args:
        encoder: in our names.
    """
    statistics = encoder.normalisation
    facts = {
        "schema": 1,
        "source": encoder.source.name,
        "title": encoder.source.title,
        "num_prefix": encoder.num_prefix,
        "num_heads": encoder.num_heads,
        "needs": asdict(encoder.needs),
        "normalisation": None if statistics is None else asdict(statistics),
        "notes": list(encoder.notes),
    }
    return {"format": "pt", KEY: json.dumps(facts)}


def described_source(file: Unwrapped) -> Source | None:
    """Return the source that a converted file says it is of; None: it says nothing.

    Args:
        file: unwrapped.
    """
    try:
        facts = json.loads(file.metadata.get(KEY, "null"))
        return None if facts is None else _source(file, facts)
    except (ValueError, KeyError, TypeError):
        return None


def _source(file: Unwrapped, facts: Mapping[str, object]) -> Source:
    needs = Needs(**facts["needs"])  # type: ignore[arg-type]
    found = facts["normalisation"]
    statistics = None
    if isinstance(found, dict):
        statistics = Normalisation(
            name=found["name"], mean=tuple(found["mean"]), std=tuple(found["std"])
        )
    stem = file.state["patch_embed.proj.weight"]
    heads, prefix = facts["num_heads"], facts["num_prefix"]
    notes = tuple(str(note) for note in facts["notes"])  # type: ignore[attr-defined]
    return Source(
        name=str(facts["source"]),
        title=str(facts["title"]),
        matches=lambda _: True,
        table={"{rest}": "{rest}"},
        normalisation=statistics,
        num_prefix=lambda _: int(str(prefix)),
        needs=lambda _: needs,
        heads={} if heads is None else {stem.shape[0]: int(str(heads))},
        notes=lambda _: notes,
        evidence="what its conversion wrote into it",
    )

# SPDX-License-Identifier: Apache-2.0
"""What ``vitdet zoo`` prints of initialisations."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from vitdet_d2.engine.text_tables import aligned, print_facts
from vitdet_d2.zoo.cached_file import cached_path
from vitdet_d2.zoo.initialisation_table import INITIALISATIONS, Initialisation
from vitdet_d2.zoo.initialisations import RANDOM

# Column titles, and how each value is written.
_COLUMNS = {
    "name": "{name}",
    "layout": "{source}",
    "pre-training": "{pretraining}",
    "model": "{kind}-{size}/{patch}",
    "licence": "{licence}",
}


def list_initialisations(size: str | None, *, as_json: bool) -> None:
    """Print the initialisations.

    Args:
        size: of the backbone; None: all.
        as_json: for programs.
    """
    chosen = [row for row in INITIALISATIONS if size in (None, row.size)]
    if as_json:
        print(json.dumps([describe_initialisation(row) for row in chosen], indent=1))
        return
    rows = [list(_COLUMNS)]
    rows += [[form.format(**asdict(row)) for form in _COLUMNS.values()] for row in chosen]
    for line, entry in zip(aligned(rows), [None, *chosen], strict=True):
        by_hand = entry is not None and entry.address is None
        print(line + ("  (download by hand: `vitdet zoo show`)" if by_hand else ""))
    print(
        f"{len(chosen)} of {len(INITIALISATIONS)} initialisations, for train.init_checkpoint=NAME; "
        f"{RANDOM}: none. Licences as the authors' repositories state them."
    )


def describe_initialisation(row: Initialisation) -> dict[str, Any]:
    """Return all that is known of an initialisation, as plain data.

    Args:
        row: of the table.
    """
    cached = None if row.address is None else cached_path(row.address)
    return {
        **asdict(row),
        "digits": row.digits,
        "cached": None if cached is None else str(cached),
    }


def show_initialisation(row: Initialisation, *, as_json: bool) -> None:
    """Print all that is known of an initialisation.

    Args:
        row: of the table.
        as_json: for programs.
    """
    facts = describe_initialisation(row)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    print_facts(
        {
            "name": row.name,
            "layout": row.source,
            "pre-training": row.pretraining,
            "model": f"{row.kind}-{row.size}, {_patches(row)}",
            "licence": row.licence,
            "address": row.address or "none",
            "published hash": f"{row.digits}..." if row.digits else "none",
            "cached": facts["cached"] or "no",
            "note": row.note or "none",
        }
    )


def _patches(row: Initialisation) -> str:
    if row.kind == "ViT":
        return f"patches of {row.patch} px"
    return f"maps at strides {row.patch} to {8 * row.patch}"

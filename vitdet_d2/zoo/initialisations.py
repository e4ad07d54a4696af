# SPDX-License-Identifier: Apache-2.0
"""Pre-trained backbones by name.

Vocabulary:
    initialisation: the weights of a backbone alone, from which a detector's training starts.
    digits: the part of a file's hash that its authors published; see `addresses.hash_prefix`.
"""

from __future__ import annotations

import difflib
import os

from vitdet_d2.errors import WeightsError
from vitdet_d2.zoo.initialisation_table import INITIALISATIONS, Initialisation

RANDOM = "random"

_BY_NAME = {row.name: row for row in INITIALISATIONS}


def initialisation(name: str) -> Initialisation | None:
    """Return the initialisation of this name; None: there is none.

    Args:
        name: as it is listed. A local file of this name goes before it, where weights are read.
    """
    return _BY_NAME.get(name)


def source_of(name: str) -> str | None:
    """Return the layout of what an initialisation's name stands for; None: it is no such name.

    Args:
        name: or a path, or an address.
    """
    row = None if os.path.exists(name) else initialisation(name)
    return None if row is None else row.source


def starts_at_random(name: str) -> bool:
    """Whether a recipe's ``train.init_checkpoint`` asks for no weights.

    Args:
        name: empty, ``random``, or anything else.
    """
    return not name or (name == RANDOM and not os.path.exists(name))


def require_address(row: Initialisation) -> str:
    """Return where an initialisation is downloaded.

    Args:
        row: of the table.

    Raises:
        WeightsError: it cannot be; the message says how to get the file.
    """
    if row.address is None:
        raise WeightsError(f"{row.name}: its authors give no address to download from; {row.note}")
    return row.address


def near_names(name: str) -> list[str]:
    """Return the names of initialisations that a misspelt one may mean."""
    return difflib.get_close_matches(name.lower(), [RANDOM, *_BY_NAME], n=3)

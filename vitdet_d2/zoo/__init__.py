# SPDX-License-Identifier: Apache-2.0
"""The model zoo: a name in, a recipe, a verified file or a working model out."""

from __future__ import annotations

from vitdet_d2.zoo.catalogue import RELEASED, Released, find, lookup
from vitdet_d2.zoo.initialisations import (
    INITIALISATIONS,
    Initialisation,
    initialisation,
    starts_at_random,
)
from vitdet_d2.zoo.models import download, for_inference, get, get_config

__all__ = [
    "INITIALISATIONS",
    "RELEASED",
    "Initialisation",
    "Released",
    "download",
    "find",
    "for_inference",
    "get",
    "get_config",
    "initialisation",
    "lookup",
    "starts_at_random",
]

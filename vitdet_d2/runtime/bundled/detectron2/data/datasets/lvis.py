# SPDX-License-Identifier: Apache-2.0
"""Detectron2's names of LVIS's data sets, which are ours; imported upwards when asked for.

An installed Detectron2 needs the same code from us: its own stands on the package ``lvis``, and
knows only the classes of the official files.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [  # noqa: F822  (lazy)
    "get_lvis_instances_meta",
    "load_lvis_json",
    "register_lvis_instances",
]

_absent = absent_attribute(__name__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        return _absent(name)
    return getattr(import_module("vitdet_d2.data.lvis"), name)

# SPDX-License-Identifier: Apache-2.0
"""Detectron2's name of the LVIS evaluator, which is ours; imported upwards when asked for.

An installed Detectron2 needs the same code from us: its own stands on the package ``lvis``, which
fails on numpy 2.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["LVISEvaluator"]  # noqa: F822  (lazy)

_absent = absent_attribute(__name__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        return _absent(name)
    return getattr(import_module("vitdet_d2.evaluation.lvis_evaluator"), name)

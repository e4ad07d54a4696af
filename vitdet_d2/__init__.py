# SPDX-License-Identifier: Apache-2.0
"""Plain Vision Transformers as detection backbones, for Detectron2 and without it.

Importing the package decides which Detectron2 this process uses, and does nothing else.
"""

from __future__ import annotations

# Stands before the activation: the bundled Detectron2 reads it when it is imported first.
__version__ = "0.1.0"

import importlib
from typing import TYPE_CHECKING, Any

from vitdet_d2 import runtime as _runtime

if TYPE_CHECKING:
    from vitdet_d2.engine.predictor import Predictor

__all__ = ["Predictor", "__version__"]

# Parts that stand for themselves: `vitdet_d2.zoo.get(NAME)` needs no import of its own.
_PARTS = ("backbones", "data", "evaluation", "heads", "necks", "pretrained", "solver", "zoo")

_runtime.activate()


def __getattr__(name: str) -> Any:
    """Import on demand what stands at the top for convenience: it needs torch.

    Raises:
        AttributeError: there is no such name.
    """
    if name == "Predictor":
        from vitdet_d2.engine.predictor import Predictor

        return Predictor
    if name in _PARTS:
        return importlib.import_module(f"vitdet_d2.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

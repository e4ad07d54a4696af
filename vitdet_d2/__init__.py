# SPDX-License-Identifier: Apache-2.0
"""Plain Vision Transformers as detection backbones, for Detectron2 and without it.

Importing the package decides which Detectron2 this process uses, and does nothing else.
"""

from __future__ import annotations

# Stands before the activation: the bundled Detectron2 reads it when it is imported first.
__version__ = "0.1.0"

from vitdet_d2 import runtime as _runtime

_runtime.activate()

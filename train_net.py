#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate from a recipe: ``python train_net.py --config-file projects/vitdet_b.py``."""

from __future__ import annotations

import sys

import vitdet_d2  # noqa: F401  isort: skip  (decides which Detectron2 this process uses)
from vitdet_d2.engine.cli import main_train

if __name__ == "__main__":
    sys.exit(main_train())

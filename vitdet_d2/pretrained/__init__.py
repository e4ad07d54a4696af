# SPDX-License-Identifier: Apache-2.0
"""Weights from files: safe reading, and loading that says what it did."""

from __future__ import annotations

from vitdet_d2.pretrained.load import LoadReport, load_init_checkpoint
from vitdet_d2.pretrained.reader import read_weights, require_weights

__all__ = ["LoadReport", "load_init_checkpoint", "read_weights", "require_weights"]

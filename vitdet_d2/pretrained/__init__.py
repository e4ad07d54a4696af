# SPDX-License-Identifier: Apache-2.0
"""Weights from files: safe reading, and loading that says what it did."""

from __future__ import annotations

from vitdet_d2.pretrained.loading import LoadReport, load
from vitdet_d2.pretrained.options import vit_options
from vitdet_d2.pretrained.reader import read_weights, require_weights

__all__ = ["LoadReport", "load", "read_weights", "require_weights", "vit_options"]

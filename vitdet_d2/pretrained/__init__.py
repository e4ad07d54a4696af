# SPDX-License-Identifier: Apache-2.0
"""Weights from files: safe reading, loading that says what it did, and conversion."""

from __future__ import annotations

from vitdet_d2.pretrained.conversion import Converted, convert
from vitdet_d2.pretrained.loading import LoadReport, load
from vitdet_d2.pretrained.options import vit_options
from vitdet_d2.pretrained.options_pyramid import pyramid_options
from vitdet_d2.pretrained.reader import read_weights, require_weights
from vitdet_d2.pretrained.write import write_weights

__all__ = [
    "Converted",
    "LoadReport",
    "convert",
    "load",
    "pyramid_options",
    "read_weights",
    "require_weights",
    "vit_options",
    "write_weights",
]

# SPDX-License-Identifier: Apache-2.0
"""Recipes in Python: calls that are described now and made later."""

from __future__ import annotations

from detectron2.config.instantiate import instantiate
from detectron2.config.lazy import LazyCall, LazyConfig

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["LazyCall", "LazyConfig", "instantiate"]

__getattr__ = absent_attribute(__name__)

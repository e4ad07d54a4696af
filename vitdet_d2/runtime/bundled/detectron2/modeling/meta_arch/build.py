# SPDX-License-Identifier: Apache-2.0
"""The registry of whole models."""

from __future__ import annotations

from detectron2.utils.registry import Registry

__all__ = ["META_ARCH_REGISTRY"]

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = """Whole models by name: ``obj(cfg)`` gives a module."""

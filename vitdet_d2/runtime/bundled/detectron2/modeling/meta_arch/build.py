# SPDX-License-Identifier: Apache-2.0
"""The registry of whole models, and the one that a configuration names."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.by_name import part_by_name
from detectron2.utils.registry import Registry
from torch import nn

__all__ = ["META_ARCH_REGISTRY", "build_model"]

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = """Whole models by name: ``obj(cfg)`` gives a module."""


def build_model(cfg: Any) -> nn.Module:
    """Build the model ``MODEL.META_ARCHITECTURE`` on ``MODEL.DEVICE``, without weights.

    Args:
        cfg: the yacs configuration.

    Raises:
        KeyError: no model has the name.
    """
    build = part_by_name(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")
    return build(cfg).to(torch.device(cfg.MODEL.DEVICE))

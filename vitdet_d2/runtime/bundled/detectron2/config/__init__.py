# SPDX-License-Identifier: Apache-2.0
"""Two kinds of configuration: Python recipes (``LazyConfig``), and yacs trees (``CfgNode``)."""

from __future__ import annotations

from detectron2.config.config import (
    CfgNode,
    configurable,
    get_cfg,
    global_cfg,
    set_global_cfg,
)
from detectron2.config.instantiate import instantiate
from detectron2.config.lazy import LazyCall, LazyConfig

from detectron2.config.compat import downgrade_config, upgrade_config  # isort: skip  (needs both)

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "CfgNode",
    "LazyCall",
    "LazyConfig",
    "configurable",
    "downgrade_config",
    "get_cfg",
    "global_cfg",
    "instantiate",
    "set_global_cfg",
    "upgrade_config",
]

__getattr__ = absent_attribute(__name__)

# SPDX-License-Identifier: Apache-2.0
"""The recipe parts that Detectron2's own ViTDet recipes use, by name."""

from __future__ import annotations

from detectron2.model_zoo.model_zoo import get_config, get_config_file

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["get_config", "get_config_file"]

__getattr__ = absent_attribute(__name__)

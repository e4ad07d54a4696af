# SPDX-License-Identifier: Apache-2.0
"""Saving and loading models."""

from __future__ import annotations

from detectron2.checkpoint.detection_checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]

__getattr__ = absent_attribute(__name__)

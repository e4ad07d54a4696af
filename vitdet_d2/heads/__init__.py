# SPDX-License-Identifier: Apache-2.0
"""What region heads offer beyond Detectron2's own."""

from __future__ import annotations

from vitdet_d2.heads.rpn import RPN
from vitdet_d2.heads.soft_nms import soft_nms
from vitdet_d2.heads.soft_nms_heads import SoftNMSCascadeROIHeads, SoftNMSFastRCNNOutputLayers

__all__ = ["RPN", "SoftNMSCascadeROIHeads", "SoftNMSFastRCNNOutputLayers", "soft_nms"]

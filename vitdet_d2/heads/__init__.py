# SPDX-License-Identifier: Apache-2.0
"""What region heads offer beyond Detectron2's own."""

from __future__ import annotations

from vitdet_d2.heads.cascade_roi_heads import CascadeROIHeads
from vitdet_d2.heads.fast_rcnn import FastRCNNOutputLayers
from vitdet_d2.heads.mask_head import MaskRCNNConvUpsampleHead
from vitdet_d2.heads.roi_heads import StandardROIHeads
from vitdet_d2.heads.roi_pooler import ROIPooler
from vitdet_d2.heads.rpn import RPN
from vitdet_d2.heads.soft_nms import soft_nms
from vitdet_d2.heads.soft_nms_heads import SoftNMSCascadeROIHeads, SoftNMSFastRCNNOutputLayers

__all__ = [
    "RPN",
    "CascadeROIHeads",
    "FastRCNNOutputLayers",
    "MaskRCNNConvUpsampleHead",
    "ROIPooler",
    "SoftNMSCascadeROIHeads",
    "SoftNMSFastRCNNOutputLayers",
    "StandardROIHeads",
    "soft_nms",
]

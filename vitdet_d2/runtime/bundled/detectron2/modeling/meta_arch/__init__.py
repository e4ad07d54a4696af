# SPDX-License-Identifier: Apache-2.0
"""Whole models."""

from __future__ import annotations

from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY, build_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN, ProposalNetwork
from detectron2.modeling.meta_arch.retinanet import RetinaNet

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "META_ARCH_REGISTRY",
    "DenseDetector",
    "GeneralizedRCNN",
    "ProposalNetwork",
    "RetinaNet",
    "build_model",
]

__getattr__ = absent_attribute(__name__)

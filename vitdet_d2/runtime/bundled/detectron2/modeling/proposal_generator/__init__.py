# SPDX-License-Identifier: Apache-2.0
"""Proposals of boxes that may hold an object."""

from __future__ import annotations

from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN, RPN_HEAD_REGISTRY, StandardRPNHead

from vitdet_d2.runtime.absent import absent_attribute

__all__ = ["PROPOSAL_GENERATOR_REGISTRY", "RPN", "RPN_HEAD_REGISTRY", "StandardRPNHead"]

__getattr__ = absent_attribute(__name__)

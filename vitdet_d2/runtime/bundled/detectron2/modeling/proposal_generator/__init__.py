# SPDX-License-Identifier: Apache-2.0
"""Proposals of boxes that may hold an object."""

from __future__ import annotations

from detectron2.modeling.proposal_generator.build import (
    PROPOSAL_GENERATOR_REGISTRY,
    build_proposal_generator,
)
from detectron2.modeling.proposal_generator.rpn import (
    RPN,
    RPN_HEAD_REGISTRY,
    StandardRPNHead,
    build_rpn_head,
)

from vitdet_d2.runtime.absent import absent_attribute

__all__ = [
    "PROPOSAL_GENERATOR_REGISTRY",
    "RPN",
    "RPN_HEAD_REGISTRY",
    "StandardRPNHead",
    "build_proposal_generator",
    "build_rpn_head",
]

__getattr__ = absent_attribute(__name__)

# SPDX-License-Identifier: Apache-2.0
"""Region heads whose training step waits for the device once, with one box head."""

from __future__ import annotations

from detectron2.modeling import roi_heads

from vitdet_d2.heads.sampled_proposals import RegionSamplingMixin

__all__ = ["StandardROIHeads"]


class StandardROIHeads(RegionSamplingMixin, roi_heads.StandardROIHeads):
    """Detectron2's box and mask head.

    Same arguments, parameters and losses; the sample of proposals is as random, and drawn with
    other numbers. To wait no more than once, the poolers, the predictor and the mask head have to
    be those of `vitdet_d2.heads` too.
    """

# SPDX-License-Identifier: Apache-2.0
"""Whether region heads understand proposals of which some are empty places."""

from __future__ import annotations

import logging

from torch import nn

from vitdet_d2.heads.rpn import RPN
from vitdet_d2.heads.sampled_proposals import RegionSamplingMixin

__all__ = ["settle_padding"]

logger = logging.getLogger(__name__)


def settle_padding(model: nn.Module) -> nn.Module:
    """Switch ``pad_proposals`` off where the region heads would train on the empty places.

    Recipes switch it on for the heads of `vitdet_d2.heads`. Any others, and a subclass that samples
    in its own way, would take empty places for background.

    Args:
        model: a detector; changed in place, and returned.
    """
    heads = getattr(model, "roi_heads", None)
    sampling = getattr(type(heads), "label_and_sample_proposals", None)
    if sampling is RegionSamplingMixin.label_and_sample_proposals:
        return model
    for module in model.modules():
        if isinstance(module, RPN) and module.pad_proposals:
            module.pad_proposals = False
            logger.info(
                "model.proposal_generator.pad_proposals is switched off: %s samples proposals in "
                "its own way, and may not know empty places",
                type(heads).__name__,
            )
    return model

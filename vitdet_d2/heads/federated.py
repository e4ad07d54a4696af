# SPDX-License-Identifier: Apache-2.0
"""Which classes the federated loss counts, without asking the device how many there are.

Source: arXiv 2103.07461 (CenterNet2), section 4; equals detectron2
``FastRCNNOutputLayers.get_fed_loss_classes``, random generator use included wherever that draws.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["federated_classes"]


def federated_classes(
    gt_classes: Tensor, counts: Tensor, num_wanted: int, weights: Tensor
) -> Tensor:
    """Choose the classes of the regions, filled up at random.

    Args:
        gt_classes: ``(R,)`` in ``[0, K]``; ``K`` is background, which counts as one where it
            occurs.
        counts: ``(R,)`` bool, which regions count.
        num_wanted: classes to choose, at least, as far as there are so many.
        weights: ``(K,)`` chances of the others, not normalised.

    Returns:
        ``(K,)`` bool, without background. A class of weight 0 is drawn only where no other is
        left.
    """
    num_columns = len(weights) + 1
    places = torch.where(counts, gt_classes, num_columns)  # beyond background: not looked at
    present = torch.zeros(num_columns + 1, dtype=torch.bool, device=gt_classes.device)
    present = present.index_fill(0, places, True)[:num_columns]
    chances = weights.new_zeros(num_columns, dtype=torch.float32)  # background is never drawn
    chances[:-1] = weights
    chances = chances.masked_fill(present, 0)
    # A draw without repetition, as torch.multinomial makes it from the same random numbers, but
    # without its look at the values, which waits for the device.
    num_drawn = min(num_wanted, num_columns)
    drawn = (chances / torch.empty_like(chances).exponential_()).topk(num_drawn).indices
    is_missing = torch.arange(num_drawn, device=drawn.device) < num_drawn - present.sum()
    filled = torch.zeros_like(present).scatter(0, drawn, is_missing)
    return (present | filled)[:-1]

# SPDX-License-Identifier: Apache-2.0
"""A class loss for data sets whose images are labelled for some classes only.

Where most classes are neither confirmed nor excluded in an image, counting all of them as absent
punishes correct detections. The federated loss counts those that occur in the batch, and a few
others drawn at random.

Source: arXiv 2103.07461 (CenterNet2), section 4; equals detectron2
``FastRCNNOutputLayers.get_fed_loss_classes``, random generator use included.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_class_weights", "choose_federated_classes"]


def check_class_weights(weights: Tensor, num_classes: int) -> Tensor:
    """Return the weights of the draw when there is a sound one for each class.

    Args:
        weights: ``(num_classes,)``, finite and not negative, at least one above 0.
        num_classes: foreground classes.

    Returns:
        ``weights``.

    Raises:
        ValueError: another number of weights, or values that nothing can be drawn by.
    """
    if weights.shape != (num_classes,):
        raise ValueError(
            f"get_fed_loss_cls_weights: expected {num_classes} weights, one per class, "
            f"got {len(weights)}; is roi_heads.num_classes that of the data set?"
        )
    if weights.is_meta:  # a model that is built for its shapes has no values to look at
        return weights
    if not (bool(weights.isfinite().all()) and bool((weights >= 0).all()) and weights.sum() > 0):
        raise ValueError(
            "get_fed_loss_cls_weights: expected finite weights, none below 0 and some above, "
            f"got {weights.min():g} to {weights.max():g}"
        )
    return weights


def choose_federated_classes(gt_classes: Tensor, num_wanted: int, weights: Tensor) -> Tensor:
    """Choose the classes that count: those of the batch, filled up at random.

    Args:
        gt_classes: ``(R,)`` in ``[0, K]``; ``K`` is background, which counts as one where it
            occurs.
        num_wanted: classes to return, at least, as far as there are so many.
        weights: ``(K,)`` chances of the others, not normalised.

    Returns:
        Class indices: those present in rising order, then those drawn. A class of weight 0 is drawn
        only where no other is left.
    """
    present = gt_classes.unique()
    num_classes = len(weights)
    num_missing = min(num_wanted, num_classes + 1) - len(present)
    if num_missing <= 0:
        return present
    chances = weights.new_zeros(num_classes + 1, dtype=torch.float32)  # background is never drawn
    chances[:num_classes] = weights
    chances[present] = 0
    # A draw without repetition, as torch.multinomial makes it from the same random numbers, but
    # without its look at the values, which waits for an accelerator.
    drawn = (chances / torch.empty_like(chances).exponential_()).topk(num_missing).indices
    return torch.cat([present, drawn])

# SPDX-License-Identifier: Apache-2.0
"""Excluding from training everything that a feature map is computed from.

What a map depends on is read from autograd's graph and not from names: modules of other people's
models stand in any order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def freeze_upstream(model: nn.Module, make_map: Callable[[], Tensor]) -> list[str]:
    """Take the gradient from every parameter that a map depends on.

    Args:
        model: changed in place: the parameters no longer require gradients.
        make_map: runs a part of the model that ends in the map.

    Returns:
        Names of the largest modules of which all parameters are frozen, which belong into
        evaluation mode: otherwise batch norms go on counting and drop path goes on dropping. Names,
        since a norm may be replaced by a synchronised one later.
    """
    was_training = model.training
    model.eval()  # statistics and random numbers stay as they are
    with torch.enable_grad():
        feature = make_map()
    model.train(was_training)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(feature.sum(), trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        if gradient is not None:
            parameter.requires_grad_(False)
    return _frozen_modules(model)


def _frozen_modules(model: nn.Module, name: str = "") -> list[str]:
    parameters = list(model.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [name]
    return [
        found
        for key, child in model.named_children()
        for found in _frozen_modules(child, f"{name}.{key}" if name else key)
    ]

# SPDX-License-Identifier: Apache-2.0
"""Weights and inputs from a closed formula of name and shape, for comparisons without files.

No random generator is involved, nothing is zero, and every name gives another tensor, so that no
part of a model can hide behind a symmetric or vanishing value.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor, nn


def tensor(name: str, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """Return float64 values in ``[-scale, scale]`` that look random, fixed by name and shape."""
    seed = zlib.crc32(name.encode()) % 9973
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    # The fractional part of a large sine is a classic hash: no period shows in any tensor.
    value = torch.sin(index * 12.9898 + seed * 78.233) * 43758.5453
    value = 2 * (value - value.floor()) - 1
    value = torch.where(value.abs() < 1e-3, torch.full_like(value, 1e-3), value)
    return (scale * value).reshape(shape)


def value_for(name: str, like: Tensor) -> Tensor:
    """Return the float64 values of a parameter or buffer, fixed by its name and shape."""
    shape = tuple(like.shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return 1 + tensor(name, shape, 0.2)
    if like.ndim <= 1:
        is_norm_weight = leaf == "weight"
        return tensor(name, shape, 0.1) + (1.0 if is_norm_weight else 0.0)
    if "pos" in leaf:
        return tensor(name, shape, 0.2)
    fan_in = like[0].numel()
    return tensor(name, shape, math.sqrt(3.0 / fan_in))


@torch.no_grad()
def fill_(module: nn.Module) -> nn.Module:
    """Overwrite every floating-point parameter and persistent buffer of ``module`` in place."""
    for name, value in module.state_dict(keep_vars=True).items():
        if value.is_floating_point():
            value.copy_(value_for(name, value).to(value.dtype))
    return module


def image(name: str, height: int, width: int) -> Tensor:
    """Return a ``(3, height, width)`` float32 image, values in 0 to 255, with visible structure."""
    y = torch.arange(height, dtype=torch.float64)[:, None] / height
    x = torch.arange(width, dtype=torch.float64)[None, :] / width
    waves = [torch.sin(9 * x * (k + 1) + 7 * y * (3 - k) + k) for k in range(3)]
    noise = tensor(name, (3, height, width), 0.3)
    return ((torch.stack(waves) + noise).clamp(-1, 1) * 127.5 + 127.5).float()

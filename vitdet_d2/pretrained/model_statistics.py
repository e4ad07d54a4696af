# SPDX-License-Identifier: Apache-2.0
"""The pixel statistics of a model, which must be those that its weights were trained with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitdet_d2.pretrained.normalisation import IMAGENET, Normalisation


def carry_normalisation(
    model: nn.Module, statistics: Normalisation | None, *, keep: bool
) -> tuple[str, str]:
    """Give a detector the statistics of its weights' source.

    Args:
        model: a detector with the buffers ``pixel_mean`` and ``pixel_std`` of three channels, in
            the order of its ``input_format``; a bare backbone has none, and stays as it is.
        statistics: of the source; None: the keys cannot tell it.
        keep: whether the model's own statistics stay where they differ.

    Returns:
        What was done, and what the user should look at; either may be empty.
    """
    words = "of ImageNet, which the keys cannot tell" if statistics is None else ""
    wanted = statistics or IMAGENET
    words = words or f"{wanted.name}'s"
    buffers = _buffers(model)
    if buffers is None:
        return (
            f"pixel statistics: {words} (mean {_shown(wanted.mean)}, std {_shown(wanted.std)})",
            "",
        )
    mean, std = buffers
    bgr = getattr(model, "input_format", "RGB") == "BGR"
    order = (2, 1, 0) if bgr else (0, 1, 2)
    own_mean, own_std = (tuple(float(t.flatten()[i]) for i in order) for t in (mean, std))
    if wanted.is_near(own_mean, own_std):
        return f"pixel statistics: {words}, as the recipe has them", ""
    difference = (
        f"the recipe has mean {_shown(own_mean)}, std {_shown(own_std)}, the source "
        f"{wanted.name} {_shown(wanted.mean)}, {_shown(wanted.std)}"
    )
    if keep or statistics is None:
        return "", f"pixel statistics: {difference}; the recipe's are used"
    for buffer, values in ((mean, wanted.mean), (std, wanted.std)):
        new = torch.tensor([values[i] for i in order], dtype=buffer.dtype, device=buffer.device)
        buffer.copy_(new.reshape(buffer.shape))
    return "", f"pixel statistics: {difference}; the source's are used"


def _buffers(model: nn.Module) -> tuple[Tensor, Tensor] | None:
    mean, std = getattr(model, "pixel_mean", None), getattr(model, "pixel_std", None)
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
        return None
    if mean.numel() != 3 or std.numel() != 3 or mean.is_meta or std.is_meta:
        return None
    return mean, std


def _shown(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"

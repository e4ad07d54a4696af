# SPDX-License-Identifier: Apache-2.0
"""The pixel statistics of a model, which must be those that its weights were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def statistics_of(model: nn.Module) -> dict[str, Any]:
    """Return the statistics of a detector in plain types, for checkpoints; else nothing.

    Args:
        model: a detector; the values are in the order of its ``input_format``, which is told.
    """
    buffers = _buffers(model)
    if buffers is None:
        return {}
    mean, std = ([float(value) for value in buffer.flatten()] for buffer in buffers)
    order = str(getattr(model, "input_format", None) or "RGB")
    return {"pixel_mean": mean, "pixel_std": std, "input_format": order}


def saved_statistics(saved: Any) -> Normalisation | None:
    """Return what `statistics_of` gave; None: there is nothing.

    Args:
        saved: the entry ``vitdet_d2`` of a checkpoint.
    """
    if not isinstance(saved, Mapping):
        return None
    mean, std = saved.get("pixel_mean"), saved.get("pixel_std")
    if mean is None or std is None or not (_is_triple(mean) and _is_triple(std)):
        return None
    order = (2, 1, 0) if saved.get("input_format") == "BGR" else (0, 1, 2)
    red, green, blue = (float(mean[i]) for i in order)
    reds, greens, blues = (float(std[i]) for i in order)
    return Normalisation(
        name="in the checkpoint", mean=(red, green, blue), std=(reds, greens, blues)
    )


def _is_triple(value: Any) -> bool:
    numbers = isinstance(value, (list, tuple)) and len(value) == 3
    return numbers and all(isinstance(v, (int, float)) for v in value)


def _buffers(model: nn.Module) -> tuple[Tensor, Tensor] | None:
    mean, std = getattr(model, "pixel_mean", None), getattr(model, "pixel_std", None)
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
        return None
    if mean.numel() != 3 or std.numel() != 3 or mean.is_meta or std.is_meta:
        return None
    return mean, std


def _shown(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"

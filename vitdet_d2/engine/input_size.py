# SPDX-License-Identifier: Apache-2.0
"""A recipe whose images cannot fit its model is refused before any work.

Recipe keys read, all optional: ``model.backbone.square_pad``,
``dataloader.{train,test}.mapper.augmentations``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vitdet_d2.checks.square_pad import describe_misfit
from vitdet_d2.errors import RecipeError


def check_input_size(cfg: DictConfig) -> None:
    """Compare the largest images that a recipe makes with the square that its model pads to.

    Args:
        cfg: with all overrides. Only a last augmentation that states its largest size is looked
            at: ``crop_size`` of a crop, ``max_size`` of a resize.

    Raises:
        RecipeError: images can be larger than ``model.backbone.square_pad``.
    """
    side = OmegaConf.select(cfg, "model.backbone.square_pad")
    if not isinstance(side, int) or side <= 0:
        return
    for loader in ("train", "test"):
        key = f"dataloader.{loader}.mapper.augmentations"
        augmentations = OmegaConf.select(cfg, key)
        if not OmegaConf.is_list(augmentations) or not len(augmentations):
            continue
        place = f"{key}.{len(augmentations) - 1}"
        for name in ("crop_size", "max_size"):
            size = _largest(OmegaConf.select(cfg, f"{place}.{name}"))
            if size is not None and size > side:
                what = f"{place}.{name}={size}: an image of {size}"
                raise RecipeError(describe_misfit(what, side))


def _largest(size: Any) -> int | None:
    """Return the largest side of a size; None for shares and whatever else is no number."""
    sides = size if isinstance(size, Sequence) else [size]
    whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool)]
    return max(whole) if whole and len(whole) == len(sides) else None

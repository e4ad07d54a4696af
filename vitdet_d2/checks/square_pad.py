# SPDX-License-Identifier: Apache-2.0
"""No image is ever cropped by the padding that should enlarge it.

A backbone may ask for images padded to a square (``padding_constraints["square_size"]``). An
installed Detectron2 pads one image that is larger by a negative amount, which cuts its right and
lower part off without a word; a batch of such images fails with a message about tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitdet_d2.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn


def refuse_cropping(model: nn.Module) -> nn.Module:
    """Let a detector check the size of every image before its forward pass.

    Args:
        model: in Detectron2's format, with a ``backbone``; others are left as they are. The check
            survives deep copies and pickling, and is installed once.

    Returns:
        The same model.
    """
    hooks = model._forward_pre_hooks.values()
    if hasattr(model, "backbone") and _require_fit not in hooks:
        model.register_forward_pre_hook(_require_fit)
    return model


def _require_fit(model: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Refuse an image larger than the square.

    Raises:
        RecipeError: with both sizes, and the file's name where the input has it.
    """
    side = square_side(model)
    if side <= 0 or not arguments or not isinstance(arguments[0], (list, tuple)):
        return
    for sample in arguments[0]:
        image = sample.get("image") if isinstance(sample, Mapping) else None
        if image is None:
            continue
        height, width = image.shape[-2:]
        if max(height, width) > side:
            name = f"{sample['file_name']}: " if "file_name" in sample else ""
            raise RecipeError(f"{name}{describe_misfit(f'an image of {height} x {width}', side)}")


def square_side(model: nn.Module) -> int:
    """Return the side in pixels of the square that a detector pads images to; 0: none.

    Args:
        model: in Detectron2's format.
    """
    constraints = getattr(getattr(model, "backbone", None), "padding_constraints", None)
    return int(constraints.get("square_size", 0)) if isinstance(constraints, Mapping) else 0


def describe_misfit(what: str, side: int) -> str:
    """Return what does not fit, why, and the cure.

    Args:
        what: with its size, for example ``an image of 800 x 1333``.
        side: of the square, in pixels.
    """
    return (
        f"{what} pixels does not fit the square of {side} that the backbone pads to, and would be "
        f"cut off; let the recipe resize to at most {side} (data.image_size, or max_size of the "
        "last augmentation), or raise model.backbone.square_pad"
    )

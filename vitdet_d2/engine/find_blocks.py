# SPDX-License-Identifier: Apache-2.0
"""The one backbone in a detector whose blocks the options of training reach."""

from __future__ import annotations

from torch import nn

from vitdet_d2.backbones.block_steps import BlockStep
from vitdet_d2.errors import RecipeError


def find_backbone(model: nn.Module, option: str) -> nn.Module:
    """Return the one transformer inside a model.

    Args:
        model: a detector, or a backbone.
        option: the key that needs it, for the message.

    Raises:
        RecipeError: there is none, or more than one.
    """
    found = [module for module in model.modules() if _has_stages(module) or _is_plain_vit(module)]
    if len(found) != 1:
        raise RecipeError(
            f"{option} is for detectors with one plain ViT (patch_embed and blocks), PVT or MiT; "
            f"this model has {len(found) or 'none'}; leave it at its default (a model of timm has "
            "arguments of its own, such as frozen_stages)"
        )
    return found[0]


def block_steps(backbone: nn.Module) -> list[BlockStep]:
    """Return the blocks of a backbone in order, with what is computed before each.

    Args:
        backbone: of `find_backbone`.
    """
    if _has_stages(backbone):
        return list(backbone.block_steps())  # type: ignore[operator]  # no class has both kinds
    assert isinstance(backbone.blocks, nn.ModuleList), "find_backbone looks for it"
    assert isinstance(backbone.patch_embed, nn.Module), "find_backbone looks for it"
    norm = getattr(backbone, "norm_pre", None)
    before: list[nn.Module | nn.Parameter] = [
        backbone.patch_embed,
        *([norm] if isinstance(norm, nn.Module) else []),
        *backbone.parameters(recurse=False),
    ]
    return [
        BlockStep(block=block, before=() if i else tuple(before))
        for i, block in enumerate(backbone.blocks)
    ]


def _has_stages(module: nn.Module) -> bool:
    return callable(getattr(module, "block_steps", None))


def _is_plain_vit(module: nn.Module) -> bool:
    return isinstance(getattr(module, "blocks", None), nn.ModuleList) and isinstance(
        getattr(module, "patch_embed", None), nn.Module
    )

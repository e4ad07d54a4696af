# SPDX-License-Identifier: Apache-2.0
"""Options of training that reach into a detector's plain ViT: freezing, recomputing, compiling.

They work on any ViT with Detectron2's attributes, ``patch_embed`` and ``blocks``, whichever neck is
around it, and change no name in the state dict.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vitdet_d2.errors import RecipeError

logger = logging.getLogger(__name__)

# Of one block there are graphs by window, drop path, gradient and mode; torch gives up at 8.
MIN_RECOMPILE_LIMIT = 64


def find_vit(model: nn.Module, option: str) -> nn.Module:
    """Return the one plain ViT inside a model.

    Args:
        model: a detector, or a backbone.
        option: the key that needs it, for the message.

    Raises:
        RecipeError: there is none, or more than one.
    """
    found = [
        module
        for module in model.modules()
        if isinstance(getattr(module, "blocks", None), nn.ModuleList)
        and isinstance(getattr(module, "patch_embed", None), nn.Module)
    ]
    if len(found) != 1:
        raise RecipeError(
            f"{option} is for detectors with one plain ViT (patch_embed and blocks); this model "
            f"has {len(found) or 'none'}; leave it at its default"
        )
    return found[0]


def freeze_blocks(model: nn.Module, count: int) -> list[nn.Module]:
    """Exclude the first blocks of the ViT, and what stands before them, from training.

    Args:
        model: a detector; changed in place.
        count: how many blocks, at least 1. The embeddings are frozen with them: that of patches,
            the norm before the first block, and what the ViT itself has, such as positions and
            tables that its blocks share.

    Returns:
        The frozen modules, which belong into evaluation mode (`hooks.freeze.FrozenHook`).

    Raises:
        RecipeError: the model has no such ViT, or fewer blocks.
    """
    vit = find_vit(model, "train.freeze_blocks")
    assert isinstance(vit.blocks, nn.ModuleList), "find_vit looks for it"
    depth = len(vit.blocks)
    if count > depth:
        raise RecipeError(
            f"train.freeze_blocks={count}: the ViT has {depth} blocks; give at most {depth}"
        )
    assert isinstance(vit.patch_embed, nn.Module), "find_vit looks for it"
    before = getattr(vit, "norm_pre", None)
    first = [vit.patch_embed, before] if isinstance(before, nn.Module) else [vit.patch_embed]
    frozen = [*first, *vit.blocks[:count]]
    for module in frozen:
        module.requires_grad_(False)
    for parameter in vit.parameters(recurse=False):
        parameter.requires_grad_(False)
    num_frozen = sum(p.numel() for p in vit.parameters() if not p.requires_grad)
    logger.info("Frozen: embeddings and %d of %d blocks, %d numbers", count, depth, num_frozen)
    return frozen


def checkpoint_activations(model: nn.Module) -> None:
    """Compute the ViT's blocks a second time in the backward pass, in place of keeping their maps.

    Random numbers are drawn again as the first time: gradients do not change. Blocks that are
    compiled as well are compiled before.

    Args:
        model: a detector; changed in place.

    Raises:
        RecipeError: the model has no plain ViT.
    """
    vit = find_vit(model, "train.activation_checkpointing")
    if hasattr(vit, "use_act_checkpoint"):
        setattr(vit, "use_act_checkpoint", True)  # noqa: B010  (not an attribute of every Module)
        return
    # Detectron2's own ViT decides when it is built, and needs another package for it.
    assert isinstance(vit.blocks, nn.ModuleList), "find_vit looks for it"
    for block in vit.blocks:
        block.forward = functools.partial(_recomputed, block.forward)


def _recomputed(forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return checkpoint(forward, x, use_reentrant=False) if torch.is_grad_enabled() else forward(x)


def compile_blocks(model: nn.Module, device: torch.device) -> None:
    """Compile each block of the ViT in place.

    Comes before `checkpoint_activations`: computing a block again inside the compiled code, drop
    path would draw other numbers than the first time.

    Args:
        model: a detector; changed in place.
        device: of the model.

    Raises:
        RecipeError: the model has no plain ViT, or nothing can be compiled here.
    """
    vit = find_vit(model, "train.compile")
    assert isinstance(vit.blocks, nn.ModuleList), "find_vit looks for it"
    require_compiler(device)
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MIN_RECOMPILE_LIMIT)
    for block in vit.blocks:
        assert not isinstance(block.forward, functools.partial), "compiled before it is recomputed"
        # Graphs for one size and rate each: with those that vary, a block that is computed again in
        # the backward pass may get another graph than the first time, which is an error.
        block.forward = torch.compile(block.forward, dynamic=False)
    logger.info(
        "train.compile: %d blocks are compiled in the first iterations and in the first "
        "evaluation, which are slow therefore",
        len(vit.blocks),
    )


def require_compiler(device: torch.device) -> None:
    """Compile something small, so that a missing compiler is found before any work.

    Args:
        device: to compile for.

    Raises:
        RecipeError: it fails.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # of torch, Triton or the compiler: there is no common class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RecipeError(
            f"train.compile: torch.compile does not work for {device.type} here ({reason}); it "
            "needs a C++ compiler (g++), and on a GPU Triton too; install them, or set "
            "train.compile=false"
        ) from error

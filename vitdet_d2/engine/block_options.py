# SPDX-License-Identifier: Apache-2.0
"""Options of training that reach into a detector's transformer: freezing, recomputing, compiling.

They work on any ViT with Detectron2's attributes, ``patch_embed`` and ``blocks``, and on backbones
with `BlockStep`s, whichever neck is around them, and change no name in the state dict.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import nn

from vitdet_d2.engine.cuda_graphs import GRAPH_OPTIONS, mark_steps
from vitdet_d2.engine.find_blocks import block_steps, find_backbone
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.recompute import Recompute, recomputed

logger = logging.getLogger(__name__)

# Of one block there are graphs by window, drop path, gradient and mode; torch gives up at 8.
MIN_RECOMPILE_LIMIT = 64
# Share of what a compiled block would keep: about that of the results of its linear layers and
# attention, which are dear, in all of its results.
CHEAP_MEMORY_BUDGET = 0.5


def freeze_blocks(model: nn.Module, count: int) -> list[nn.Module]:
    """Exclude the first blocks of the backbone, and what stands before them, from training.

    Args:
        model: a detector; changed in place.
        count: how many blocks, at least 1, over all stages. With them are frozen embeddings of
            patches and of positions, norms between stages and before the first block, and tables
            that all blocks share.

    Returns:
        The frozen modules, which belong into evaluation mode (`hooks.freeze.FrozenHook`).

    Raises:
        RecipeError: the model has no such backbone, or fewer blocks.
    """
    backbone = find_backbone(model, "train.freeze_blocks")
    steps = block_steps(backbone)
    if count > len(steps):
        raise RecipeError(
            f"train.freeze_blocks={count}: the backbone has {len(steps)} blocks; give at most "
            f"{len(steps)}"
        )
    frozen: list[nn.Module] = []
    for step in steps[:count]:
        for part in (*step.before, step.block):
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                frozen.append(part)
    num_frozen = sum(p.numel() for p in backbone.parameters() if not p.requires_grad)
    logger.info("Frozen: embeddings and %d of %d blocks, %d numbers", count, len(steps), num_frozen)
    return frozen


def checkpoint_activations(model: nn.Module, how: Recompute = True) -> None:
    """Compute the blocks a second time in the backward pass, in place of keeping their maps.

    Random numbers are drawn again as the first time: gradients do not change. Blocks that are
    compiled as well are compiled before.

    Args:
        model: a detector; changed in place.
        how: "selective" keeps what is dear to compute, see `vitdet_d2.layers.recompute`.

    Raises:
        RecipeError: the model has no such backbone, or one of timm's that cannot do it.
    """
    # Ours, models of timm too, can do it by themselves.
    able = [module for module in model.modules() if hasattr(module, "use_act_checkpoint")]
    if len(able) == 1:
        setattr(able[0], "use_act_checkpoint", how)  # noqa: B010  (not of every Module)
        return
    # Detectron2's own ViT decides when it is built, and needs another package for it.
    for step in block_steps(find_backbone(model, "train.activation_checkpointing")):
        step.block.forward = functools.partial(recomputed, step.block.forward, how=how)


def compile_blocks(
    model: nn.Module,
    device: torch.device,
    *,
    recompute_cheap: bool = False,
    cuda_graphs: bool = False,
) -> None:
    """Compile each block of the backbone in place.

    Comes before `checkpoint_activations`: computing a block again inside the compiled code, drop
    path would draw other numbers than the first time.

    Args:
        model: a detector; changed in place.
        device: of the model.
        recompute_cheap: whether the compiler lets the backward pass compute again what is cheap:
            selective activation checkpointing, which from outside would see compiled code as one.
        cuda_graphs: whether each block is recorded and replayed, see
            `vitdet_d2.engine.cuda_graphs`.

    Raises:
        RecipeError: the model has no such backbone, or nothing can be compiled here.
    """
    backbone = find_backbone(model, "train.compile")
    steps = block_steps(backbone)
    require_compiler(device)
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MIN_RECOMPILE_LIMIT)
    if recompute_cheap:
        torch._functorch.config.activation_memory_budget = CHEAP_MEMORY_BUDGET
    if cuda_graphs:
        mark_steps(backbone)
    for step in steps:
        block = step.block
        assert not isinstance(block.forward, functools.partial), "compiled before it is recomputed"
        # Graphs for one size and rate each: with those that vary, a block that is computed again in
        # the backward pass may get another graph than the first time, which is an error.
        block.forward = torch.compile(
            block.forward, dynamic=False, options=GRAPH_OPTIONS if cuda_graphs else None
        )
    logger.info(
        "train.compile: %d blocks are compiled in the first iterations and in the first "
        "evaluation, which are slow therefore",
        len(steps),
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

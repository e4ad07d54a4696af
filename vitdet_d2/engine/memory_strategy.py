# SPDX-License-Identifier: Apache-2.0
"""The four ways of "Benchmarking Detection Transfer Learning" to fit a plain ViT into memory.

Recipe key: ``train.memory_strategy``; null leaves the model as it is.

* ``full``: every block attends over the whole map;
* ``windowed``: every block attends in windows, and windows never exchange anything;
* ``hybrid``: the last block of each quarter attends over the whole map, all others in windows;
* ``checkpointed``: ``full``, and blocks are computed again in the backward pass.

Source: arXiv 2111.11429, section 2.2 and table 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from vitdet_d2.backbones.placement import even_blocks
from vitdet_d2.errors import RecipeError

KEY = "train.memory_strategy"
STRATEGIES = ("full", "windowed", "hybrid", "checkpointed")
# Of Detectron2's ViT and ours.
_DEFAULT_DEPTH = 12


def apply_memory_strategy(cfg: DictConfig) -> None:
    """Write the strategy into the arguments of the recipe's plain ViT, Detectron2's or ours.

    The state dict keeps its names. Tables of relative positions have the size of what a block
    attends over: weights trained with one strategy do not fit another.

    Args:
        cfg: a recipe with all overrides; ``model`` and ``train.activation_checkpointing`` are
            changed in place.

    Raises:
        RecipeError: there is no such strategy, no plain ViT, more than one, or it has no windows.
    """
    strategy = OmegaConf.select(cfg, KEY)
    if strategy is None:
        return
    if strategy not in STRATEGIES:
        raise RecipeError(f"{KEY}: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
    found = list(_vits(cfg.model))
    if len(found) != 1:
        raise RecipeError(
            f"{KEY}={strategy} is for models with one plain ViT; this recipe has "
            f"{len(found) or 'none'}; leave it at null"
        )
    vit = found[0]
    if strategy in ("windowed", "hybrid") and not vit.get("window_size"):
        raise RecipeError(
            f"{KEY}={strategy}: the recipe's ViT has no windows; set its window_size (ViTDet: 14)"
        )
    depth = vit.get("depth", _DEFAULT_DEPTH)
    OmegaConf.update(vit, "window_block_indexes", _windowed(strategy, depth), force_add=True)
    # Detectron2's ViT lacks this one; ours goes by the list alone without it.
    if "cross_window" in vit:
        OmegaConf.update(vit, "cross_window", None)
        OmegaConf.update(vit, "cross_window_indexes", None, force_add=True)
    if strategy == "checkpointed":
        OmegaConf.update(cfg, "train.activation_checkpointing", True, force_add=True)


def _windowed(strategy: str, depth: int) -> list[int]:
    if strategy == "windowed":
        return list(range(depth))
    if strategy == "hybrid":
        crossing = even_blocks(depth)
        return [i for i in range(depth) if i not in crossing]
    return []


def _vits(node: Any) -> Iterator[DictConfig]:
    """Find every call of a class named `ViT`."""
    if isinstance(node, DictConfig):
        target = node.get("_target_")
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        if name.rpartition(".")[2] == "ViT":
            yield node
    if isinstance(node, (DictConfig, ListConfig)):
        children = node.values() if isinstance(node, DictConfig) else node
        for child in children:
            yield from _vits(child)

# SPDX-License-Identifier: Apache-2.0
"""Layer-wise learning-rate decay: the nearer to the image a layer is, the less it is tuned.

Source: ELECTRA, arXiv 2003.10555; BEiT, arXiv 2106.08254; equals `get_vit_lr_decay_rate` in
detectron2/modeling/backbone/vit.py.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from vitdet_d2.errors import RecipeError

logger = logging.getLogger(__name__)

# The last one is ours alone: Detectron2's ViT has no such parameters.
_EMBEDDINGS = (".pos_embed", ".patch_embed", ".norm_pre.")
_BLOCK = re.compile(r"\.blocks\.(\d+)\.")


def get_vit_lr_decay_rate(name: str, lr_decay_rate: float = 1.0, num_layers: int = 12) -> float:
    """Return the learning-rate factor of one parameter of a detector with a ViT backbone.

    Patch and position embeddings and a norm before the first block are layer 0, block ``i`` is
    layer ``i + 1``. Everything else is new, or belongs to all blocks or to the detector, and learns
    at the full rate: neck, heads, the convolutional residual blocks inside the ViT, and, as in
    BEiT, tables of position biases that blocks share.

    Args:
        name: the parameter's name in the detector, such as ``backbone.net.blocks.3.norm1.bias``.
        lr_decay_rate: factor from one layer to the one before it, in ``(0, 1]``.
        num_layers: number of blocks of the ViT.

    Returns:
        ``lr_decay_rate ** (num_layers + 1 - layer)``.
    """
    layer = num_layers + 1
    if name.startswith("backbone"):
        if any(part in name for part in _EMBEDDINGS):
            layer = 0
        elif (block := _BLOCK.search(name)) and ".residual." not in name:
            layer = int(block[1]) + 1
    return lr_decay_rate ** (num_layers + 1 - layer)


def count_layers(names: Iterable[str]) -> int:
    """Return the number of blocks of the ViT in a detector; 0 where there is none.

    Args:
        names: of the detector's parameters.
    """
    blocks = (_BLOCK.search(name) for name in names if name.startswith("backbone"))
    return max((int(block[1]) + 1 for block in blocks if block), default=0)


def layer_decay(lr_decay_rate: float, num_layers: int) -> Callable[[str], float]:
    """Return the factor as a function of the parameter's name alone.

    Recipes name this function in a `LazyCall`, so that both numbers can be overridden and saved.

    Args:
        lr_decay_rate: factor from one layer to the one before it, in ``(0, 1]``.
        num_layers: number of blocks of the ViT.

    Raises:
        ValueError: the rate lies outside its range.
    """
    if not 0.0 < lr_decay_rate <= 1.0:
        raise ValueError(f"lr_decay_rate: expected 0 < lr_decay_rate <= 1, got {lr_decay_rate}")
    return partial(get_vit_lr_decay_rate, lr_decay_rate=lr_decay_rate, num_layers=num_layers)


def check_layer_decay(factor: Any, names: Iterable[str]) -> None:
    """Compare a layer decay with the backbone that it is for.

    A backbone without numbered blocks would have its embeddings decayed and nothing else; one of
    another depth would learn faster or slower than the recipe says.

    Args:
        factor: of a recipe, by the parameter's name; Detectron2's layer decay and ours are looked
            at, anything else passes.
        names: of the detector's parameters.

    Raises:
        RecipeError: the backbone has no numbered blocks.
    """
    if not isinstance(factor, partial) or factor.func.__name__ != get_vit_lr_decay_rate.__name__:
        return
    rate, wanted = factor.keywords.get("lr_decay_rate", 1.0), factor.keywords.get("num_layers", 12)
    if rate == 1.0:
        return
    found = count_layers(names)
    if found == 0:
        raise RecipeError(
            f"optimizer.params.lr_factor_func: a layer decay of {rate:g} is for backbones with "
            "numbered blocks (backbone.*.blocks.N.*), such as plain ViTs; this one has none. Set "
            "optimizer.params.lr_factor_func=null"
        )
    if found != wanted:
        logger.warning(
            "optimizer.params.lr_factor_func: num_layers=%d, but the backbone has %d blocks: its "
            "last one learns at %.3g of the full rate in place of %.3g; set "
            "optimizer.params.lr_factor_func.num_layers=%d",
            wanted, found, rate ** (wanted - found + 1), rate, found,
        )  # fmt: skip

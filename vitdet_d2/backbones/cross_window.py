# SPDX-License-Identifier: Apache-2.0
"""How information crosses the windows of a plain ViT: the plan of every block.

Vocabulary: a *cross-window block* is one of the few blocks through which windows exchange
information. Strategies:

* ``global``: it attends over the whole map, all others in windows;
* ``conv``: all blocks attend in windows, and a convolutional residual block follows it;
* ``shifted``: all blocks attend in windows, and its windows are shifted by half their side;
* ``none``: all blocks attend in windows, which never exchange anything.

Source: ViTDet, arXiv 2203.16527, section 3 and table 2; shifted: Swin, arXiv 2103.14030.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from vitdet_d2.backbones.placement import (
    NUM_CROSS_WINDOW_BLOCKS,
    check_block_indexes,
    even_blocks,
)
from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.residual_block import ConvBlockKind

CrossWindow = Literal["global", "conv", "shifted", "none"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """What one block does.

    ``window_size``: side of the windows, in tokens, 0: global; ``shift``: of the windows, in
    tokens; ``conv_block``: the kind of convolutional residual block that follows, if any.
    """

    window_size: int = 0
    shift: int = 0
    conv_block: ConvBlockKind | None = None


def plan_blocks(
    depth: int,
    window_size: int,
    cross_window: CrossWindow | None,
    cross_window_indexes: Sequence[int] | None,
    conv_block: ConvBlockKind,
    window_block_indexes: Sequence[int],
    residual_block_indexes: Sequence[int],
) -> list[BlockPlan]:
    """Return the plan of every block.

    Args:
        depth: number of blocks.
        window_size: side of the windows, in tokens.
        cross_window: the strategy; None: Detectron2's two lists alone decide.
        cross_window_indexes: the cross-window blocks; by default the last of each quarter, and
            with ``shifted`` every second windowed block.
        conv_block: the kind of convolutional residual block.
        window_block_indexes: Detectron2's list of windowed blocks. Where it is not empty it wins
            over the strategy, with a warning if they disagree; numbers beyond the depth do nothing.
        residual_block_indexes: Detectron2's list of blocks that a convolutional block follows; wins
            in the same way.

    Raises:
        RecipeError: an unknown name, or arguments that contradict each other.
    """
    if conv_block not in get_args(ConvBlockKind):
        expected = ", ".join(get_args(ConvBlockKind))
        raise RecipeError(f"conv_block: expected one of {expected}, got {conv_block!r}")
    windowed: Collection[int] = set(window_block_indexes)
    residual: Collection[int] = set(residual_block_indexes)
    shifted: Collection[int] = ()
    if cross_window is None:
        if cross_window_indexes is not None:
            raise RecipeError(
                "cross_window_indexes: expected cross_window with it, got "
                f"{cross_window_indexes!r} alone; set cross_window to global, conv or shifted"
            )
    else:
        crossing = _crossing(depth, window_size, cross_window, cross_window_indexes)
        every = set(range(depth))
        by_strategy = every - set(crossing or ()) if cross_window == "global" else every
        windowed = _winner("window_block_indexes", windowed, by_strategy, cross_window)
        by_strategy = set(crossing or ()) if cross_window == "conv" else set()
        residual = _winner("residual_block_indexes", residual, by_strategy, cross_window)
        if cross_window == "shifted":
            shifted = _shifted(sorted(windowed), crossing)
    if conv_block != "bottleneck" and not residual:
        logger.warning(
            "conv_block=%r has no effect: no block has a convolutional one (cross_window='conv')",
            conv_block,
        )
    return [
        BlockPlan(
            window_size=window_size if i in windowed else 0,
            shift=window_size // 2 if i in shifted else 0,
            conv_block=conv_block if i in residual else None,
        )
        for i in range(depth)
    ]


def _crossing(
    depth: int, window_size: int, cross_window: CrossWindow, given: Sequence[int] | None
) -> Sequence[int] | None:
    """Return the cross-window blocks; None for the default of ``shifted``.

    Raises:
        RecipeError: the strategy is unknown, lacks windows, or contradicts the given blocks.
    """
    if cross_window not in get_args(CrossWindow):
        expected = ", ".join(get_args(CrossWindow))
        raise RecipeError(f"cross_window: expected one of {expected}, got {cross_window!r}")
    least = 2 if cross_window == "shifted" else 1
    if window_size < least:
        raise RecipeError(
            f"window_size: expected at least {least} with cross_window={cross_window!r}, got "
            f"{window_size}; ViTDet's is 14. Without windows leave cross_window out"
        )
    if cross_window == "none":
        if given:
            raise RecipeError(
                f"cross_window_indexes: expected none with cross_window='none', got {given!r}; "
                "set cross_window to global, conv or shifted, or leave the indexes out"
            )
        return ()
    if given is None:
        if cross_window == "shifted":
            return None
        return even_blocks(depth, min(NUM_CROSS_WINDOW_BLOCKS, depth))
    indexes = check_block_indexes("cross_window_indexes", given, depth)
    if not indexes:
        raise RecipeError(
            f"cross_window_indexes: expected at least one block with cross_window={cross_window!r},"
            " got an empty list; leave it out for the default, or set cross_window='none'"
        )
    return indexes


def _winner(
    name: str, given: Collection[int], by_strategy: Collection[int], cross_window: str
) -> Collection[int]:
    """Return Detectron2's list if there is one, else what the strategy says."""
    if not given:
        return by_strategy
    if set(given) != set(by_strategy):
        logger.warning(
            "%s=%s wins over cross_window=%r, which asks for %s; set it to [] to obey the strategy",
            name,
            sorted(given),
            cross_window,
            sorted(by_strategy),
        )
    return given


def _shifted(windowed: Sequence[int], given: Sequence[int] | None) -> Collection[int]:
    """Return the blocks with shifted windows.

    Raises:
        RecipeError: one of them has no windows.
    """
    if given is None:
        return windowed[1::2]
    without = sorted(set(given) - set(windowed))
    if without:
        raise RecipeError(
            f"cross_window_indexes: expected windowed blocks to shift, got {without}, which are "
            f"not in window_block_indexes={list(windowed)}; set that to [] or add them"
        )
    return given

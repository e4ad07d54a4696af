# SPDX-License-Identifier: Apache-2.0
"""Where in a plain ViT the few special blocks stand: evenly, first, last, or everywhere.

Every function returns increasing block numbers, counted from 0. Recipes name them in a `LazyCall`,
so that another depth moves the blocks.

Source: ViTDet, arXiv 2203.16527, section 3 and table 2 (c), (d).
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from vitdet_d2.errors import RecipeError

# The paper's number of global (or convolutional) blocks, and of stages.
NUM_CROSS_WINDOW_BLOCKS = 4


def even_blocks(depth: int, count: int = NUM_CROSS_WINDOW_BLOCKS) -> list[int]:
    """Return the last block of each of ``count`` parts of equal length.

    Args:
        depth: number of blocks.
        count: number of parts, from 1 to ``depth``. Where it does not divide, lengths differ by 1.

    Raises:
        RecipeError: the count is out of range.
    """
    _check_count(depth, count)
    return [(part + 1) * depth // count - 1 for part in range(count)]


def first_blocks(depth: int, count: int = NUM_CROSS_WINDOW_BLOCKS) -> list[int]:
    """Return the first ``count`` blocks.

    Args:
        depth: number of blocks.
        count: from 1 to ``depth``.

    Raises:
        RecipeError: the count is out of range.
    """
    _check_count(depth, count)
    return list(range(count))


def last_blocks(depth: int, count: int = NUM_CROSS_WINDOW_BLOCKS) -> list[int]:
    """Return the last ``count`` blocks.

    Args:
        depth: number of blocks.
        count: from 1 to ``depth``.

    Raises:
        RecipeError: the count is out of range.
    """
    _check_count(depth, count)
    return list(range(depth - count, depth))


def all_blocks(depth: int) -> list[int]:
    """Return every block."""
    return list(range(depth))


def check_block_indexes(name: str, indexes: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return block numbers as a tuple if they are of a ViT of this depth, each once.

    Args:
        name: what the argument is called.
        indexes: block numbers.
        depth: number of blocks.

    Raises:
        RecipeError: no list of numbers, or one is out of range or stands there twice.
    """
    is_list = isinstance(indexes, Sequence) and not isinstance(indexes, str)
    if not is_list or not all(isinstance(i, Integral) for i in indexes):
        raise RecipeError(
            f"{name}: expected a list of block numbers, such as [2, 5, 8, 11], got {indexes!r}"
        )
    given = tuple(indexes)
    outside = [i for i in given if not 0 <= i < depth]
    if outside:
        raise RecipeError(
            f"{name}: expected block numbers from 0 to {depth - 1} (depth={depth}), got {outside} "
            f"in {list(given)}; count from 0, or let vitdet_d2.backbones.placement choose"
        )
    if len(set(given)) != len(given):
        raise RecipeError(f"{name}: expected each block once, got {list(given)}; remove duplicates")
    return given


def _check_count(depth: int, count: int) -> None:
    if not 1 <= count <= depth:
        raise RecipeError(f"count: expected 1 to {depth} blocks (depth={depth}), got {count}")

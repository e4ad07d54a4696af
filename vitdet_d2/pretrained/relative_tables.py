# SPDX-License-Identifier: Apache-2.0
"""Tables of relative positions for another window or image size.

They are of two kinds: decomposed, one for the rows and one for the columns, or biases, one for all
offsets of both.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from vitdet_d2.layers.bias_table import resize_bias_table

# How the names of the tables of a ViT end.
_DECOMPOSED = (".rel_pos_h", ".rel_pos_w")
_BIASES = ("relative_position_bias_table", "rel_pos_bias_window", "rel_pos_bias_global")


def fit_table(name: str, table: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """Bring a table to the shape that a model has; other tensors stay as they are.

    Args:
        name: in the state dict of the model; tells the kind of the table.
        table: decomposed, ``(2 * n - 1, C)``, or of biases, ``((2 * n - 1)^2, heads)``, with or
            without BEiT's three rows for the class token at the end, which are dropped.
        wanted: shape in the model.

    Returns:
        The table of that shape, or as it is where more than the window or image size differs.
    """
    if tuple(table.shape) == wanted or table.shape[1:] != wanted[1:]:
        return table
    if name.endswith(_DECOMPOSED):
        return resize_relative_table(table, wanted[0])
    if not name.endswith(_BIASES):
        return table
    old, new = _window_side(table.shape[0]), _window_side(wanted[0])
    if old is None or new is None:
        return table
    table = table[: (2 * old - 1) ** 2]
    return table if old == new else resize_bias_table(table, (old, old), (new, new))


def resize_relative_table(table: Tensor, length: int) -> Tensor:
    """Resize a table of one axis linearly, as the backbone does when images have another size.

    Args:
        table: ``(L, C)``, one row per distance, with an odd number of rows; any floating type.
        length: rows of the result.

    Returns:
        ``(length, C)`` of the same type; the table itself if the length stays.

    Source: equals the resizing in detectron2 ``get_rel_pos``.
    """
    if table.shape[0] == length:
        return table
    resized = F.interpolate(table.float().t()[None], size=length, mode="linear")[0].t()
    return resized.to(table.dtype)


def _window_side(rows: int) -> int | None:
    """Return the side of the window of a table, with or without rows for a class token."""
    for extra in (0, 3):
        distances = math.isqrt(max(rows - extra, 0))
        if distances % 2 and distances * distances == rows - extra:
            return (distances + 1) // 2
    return None

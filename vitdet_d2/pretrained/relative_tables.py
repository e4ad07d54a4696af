# SPDX-License-Identifier: Apache-2.0
"""Decomposed relative-position tables for another window or image size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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

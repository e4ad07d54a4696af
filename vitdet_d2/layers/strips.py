# SPDX-License-Identifier: Apache-2.0
"""A token map in strips of rows, each so small that what a block makes of it stays in the cache.

Windows of a row of windows, and tokens of a perceptron, know nothing of the rest of the map. In
inference on the CPU, a block goes through one strip before it begins the next. Measured on a Zen 4
(two cores, ViT-B, 64 x 64 tokens, float32): the memory of large intermediate maps is handed back to
the system and taken anew for each, and filling it with zeros, page by page, is a third of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vitdet_d2.layers.host_memory import keep_freed_blocks
from vitdet_d2.layers.watched import read_by_compiler

# Tokens of one strip. At 1024 and the width of ViT-B the largest map of a block has 12 MB.
STRIP_TOKENS = 1024


def worth_strips(x: Tensor) -> bool:
    """Return whether strips may and should be used: inference on a CPU, and more than one strip.

    Args:
        x: the map ``(B, H, W, C)``.
    """
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not read_by_compiler()
        and x.shape[0] * x.shape[1] * x.shape[2] > STRIP_TOKENS
    )


def strips(shape: tuple[int, ...], unit: int) -> Iterator[tuple[slice, slice]]:
    """Yield the images and rows of each strip.

    Args:
        shape: of the map, ``(B, H, W, C)``.
        unit: rows that belong together; a strip has a multiple of them, except the last.
    """
    B, H, W = shape[:3]
    rows = max(1, STRIP_TOKENS // (unit * W)) * unit
    images = max(1, STRIP_TOKENS // (min(rows, H) * W))
    for image in range(0, B, images):
        for row in range(0, H, rows):
            yield slice(image, image + images), slice(row, row + rows)


def map_strips(function: Callable[[Tensor], Tensor], x: Tensor, unit: int = 1) -> Tensor:
    """Apply a function to every strip of a map.

    Args:
        function: maps ``(b, h, W, C)`` to the same shape.
        x: the map ``(B, H, W, C)``.
        unit: as in `strips`.

    Returns:
        ``(B, H, W, C)``.
    """
    keep_freed_blocks()
    out: Tensor | None = None
    for part in strips(x.shape, unit):
        strip = function(x[part])
        if out is None:  # under autocast the type may be another one than that of the map
            out = strip.new_empty(x.shape)
        out[part] = strip
    return x if out is None else out

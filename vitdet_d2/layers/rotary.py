# SPDX-License-Identifier: Apache-2.0
"""Rotary positions in two dimensions: queries and keys turned by angles that tell where they are.

A head's channels form ``D / 2`` pairs; the first half of the pairs is turned by the row, the
second by the column, each pair at its own speed. There are no parameters. Two kinds:

* ``half``: channels ``i`` and ``i + D / 2`` are a pair; the map spans ``[-1, 1]`` along each axis,
  also for a block that attends in windows; periods from 1 to 100.
* ``interleaved``: channels ``2 i`` and ``2 i + 1`` are a pair; the map, or in a block that attends
  in windows each window, spans ``[0, 16)``, the grid of pre-training; base 10000.

Padding of windows is turned like everything else, by where it stands beyond the map.

Vocabulary: ``D``: channels of a head; ``nw``: windows of one image; ``N``: tokens of a window.

Source: RoPE, arXiv 2104.09864, section 3.2; ``half``: DINOv3, arXiv 2508.10104, section 3.2;
``interleaved``: EVA-02, arXiv 2303.11331, section 2.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vitdet_d2.layers.window_partition import window_partition

RopeKind = Literal["half", "interleaved"]
Rotation = tuple[Tensor, Tensor]

# DINOv3's base of the periods.
HALF_BASE = 100.0
# EVA-02's base of the frequencies, and the side of its grid in pre-training (224 / 14), in tokens.
INTERLEAVED_BASE = 10000.0
INTERLEAVED_GRID = 16.0


def map_rotation(kind: RopeKind, hw: tuple[int, int], head_dim: int, like: Tensor) -> Rotation:
    """Return cosine and sine of the angles of a whole map.

    Args:
        kind: which convention.
        hw: token grid ``(H, W)``.
        head_dim: channels of a head, a multiple of 4.
        like: a tensor on the wanted device, in the type of queries and keys.

    Returns:
        ``(1, 1, H * W, head_dim / 2)`` twice, of float32, or of float64 for queries of that type.
    """
    rotation = _grid_rotation(kind, hw, hw, head_dim, like)
    return _per_window(rotation[0]), _per_window(rotation[1])


def window_rotation(
    kind: RopeKind,
    hw: tuple[int, int],
    pad_hw: tuple[int, int],
    window_size: int,
    shift: tuple[int, int],
    head_dim: int,
    like: Tensor,
) -> Rotation:
    """Return cosine and sine of the angles in the windows of one image.

    Args:
        kind: which convention.
        hw: token grid ``(H, W)`` before padding.
        pad_hw: padded grid ``(Hp, Wp)``, multiples of ``window_size``.
        window_size: side of a window, in tokens.
        shift: how far the padded map was rolled up and to the left, in tokens.
        head_dim: channels of a head, a multiple of 4.
        like: a tensor on the wanted device, in the type of queries and keys.

    Returns:
        ``(nw, 1, N, head_dim / 2)`` twice; ``nw`` is 1 where all windows are alike.
    """
    if kind == "interleaved":
        side = (window_size, window_size)
        return map_rotation(kind, side, head_dim, like)
    cos, sin = (
        _per_window(window_partition(part, window_size, shift=shift)[0])
        for part in _grid_rotation(kind, pad_hw, hw, head_dim, like)
    )
    return cos, sin


def rotate(x: Tensor, rotation: Rotation, kind: RopeKind) -> Tensor:
    """Turn the channel pairs of queries or keys.

    Args:
        x: ``(B * nw, heads, N, D)``, image by image.
        rotation: cosine and sine, ``(nw, 1, N, D / 2)``; in lower precision ``x`` is turned in
            theirs, and rounded again.
        kind: which channels are a pair.

    Returns:
        The shape and type of ``x``.
    """
    cos, sin = rotation
    images = x.unflatten(0, (-1, cos.shape[0])).to(cos.dtype)
    if kind == "half":
        first, second = images.chunk(2, dim=-1)
    else:
        first, second = images.unflatten(-1, (-1, 2)).unbind(-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    joined = torch.cat(turned, dim=-1) if kind == "half" else torch.stack(turned, -1).flatten(-2)
    return joined.flatten(0, 1).to(x.dtype)


def _grid_rotation(
    kind: RopeKind, grid: tuple[int, int], span: tuple[int, int], head_dim: int, like: Tensor
) -> Rotation:
    """Return cosine and sine ``(1, H, W, head_dim / 2)``: the row's pairs, then the column's.

    Args:
        kind: which convention.
        grid: tokens ``(H, W)`` to return angles for.
        span: tokens over which the coordinates run from end to end; others lie beyond.
        head_dim: channels of a head.
        like: as for `map_rotation`.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    axes = [
        _axis_angles(kind, size, extent, head_dim // 4, dtype, like.device)
        for size, extent in zip(grid, span, strict=True)
    ]
    shape = (1, *grid, head_dim // 4)
    cos, sin = (
        torch.cat([turn(axes[0])[:, None].expand(shape), turn(axes[1])[None].expand(shape)], dim=-1)
        for turn in (torch.cos, torch.sin)
    )
    return cos, sin


def _axis_angles(
    kind: RopeKind, size: int, extent: int, pairs: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the angles ``(size, pairs)`` along one axis, in radians."""
    steps = torch.arange(size, dtype=dtype, device=device)
    exponents = torch.arange(pairs, dtype=dtype, device=device) / pairs
    if kind == "half":
        places = 2 * math.pi * ((steps + 0.5) / extent * 2 - 1)
        return places[:, None] / HALF_BASE**exponents
    return (steps / extent * INTERLEAVED_GRID)[:, None] / INTERLEAVED_BASE**exponents


def _per_window(maps: Tensor) -> Tensor:
    """Map ``(nw, H, W, C)`` to ``(nw, 1, H * W, C)``."""
    return maps.flatten(1, 2)[:, None]

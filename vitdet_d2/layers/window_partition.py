# SPDX-License-Identifier: Apache-2.0
"""Cut a token map into non-overlapping square windows, and put it together again.

A map whose size is no multiple of the window is padded at the bottom and at the right; shifted
windows are those of the padded map, rolled.

Source: ViTDet, arXiv 2203.16527, section 3; equals `window_partition` and `window_unpartition` in
detectron2/modeling/backbone/utils.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


def window_partition(
    x: Tensor, window_size: int, fill: Tensor | None = None, shift: tuple[int, int] = (0, 0)
) -> tuple[Tensor, tuple[int, int]]:
    """Cut a token map into windows.

    Args:
        x: ``(B, H, W, C)``.
        window_size: side of a window, in tokens.
        fill: ``(C,)``, the value of padding tokens; zero if not given.
        shift: how far the padded map is rolled up and to the left, in tokens.

    Returns:
        Windows ``(B * num_windows, window_size, window_size, C)``, image by image and row by row,
        and the padded size ``(Hp, Wp)``.
    """
    B, H, W, C = x.shape
    Hp, Wp = (-(-size // window_size) * window_size for size in (H, W))
    if (Hp, Wp) != (H, W):
        if fill is None:
            padded = x.new_zeros(B, Hp, Wp, C)
        else:
            padded = fill.to(x.dtype).expand(B, Hp, Wp, C).clone()
        padded[:, :H, :W] = x
        x = padded
    if any(shift):
        x = torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2))
    x = x.reshape(B, Hp // window_size, window_size, Wp // window_size, window_size, C)
    windows = x.transpose(2, 3).reshape(-1, window_size, window_size, C)
    return windows, (Hp, Wp)


def window_unpartition(
    windows: Tensor,
    window_size: int,
    pad_hw: tuple[int, int],
    hw: tuple[int, int],
    shift: tuple[int, int] = (0, 0),
) -> Tensor:
    """Put windows together and remove the padding.

    Args:
        windows: ``(B * num_windows, window_size, window_size, C)``.
        window_size: side of a window, in tokens.
        pad_hw: padded size ``(Hp, Wp)``, as `window_partition` returned it.
        hw: size ``(H, W)`` before padding.
        shift: as `window_partition` was given it.

    Returns:
        ``(B, H, W, C)``.
    """
    (Hp, Wp), (H, W) = pad_hw, hw
    rows, columns = Hp // window_size, Wp // window_size
    x = windows.reshape(-1, rows, columns, window_size, window_size, windows.shape[-1])
    x = x.transpose(2, 3).reshape(-1, Hp, Wp, windows.shape[-1])
    if any(shift):
        x = torch.roll(x, shift, dims=(1, 2))
    return x[:, :H, :W]

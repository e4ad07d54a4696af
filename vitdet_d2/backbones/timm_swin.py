# SPDX-License-Identifier: Apache-2.0
"""timm's Swin for images of any size: windows of the padded map, as in Swin's detection code.

Where a map is no multiple of the window, timm rolls it before it pads it. The rows that come round
then stand in the middle of the last window, apart from where its mask expects them, and attend to
rows from the other border. Here the map is padded first. At maps that the windows divide, which are
all maps of classification, both ways are one.

Source: Swin, arXiv 2103.14030, section 3.2; equals detectron2/modeling/backbone/swin.py.
"""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn

from vitdet_d2.layers.relative_position import spread_over_keys
from vitdet_d2.layers.shifted_window import wrap_terms
from vitdet_d2.layers.window_partition import window_partition, window_unpartition


class _PaddedWindows:
    """Attention of a timm block in windows of the map that was padded, then rolled."""

    window_size: tuple[int, int]
    shift_size: tuple[int, int]
    attn: Any

    def _attn(self, x: Tensor) -> Tensor:
        """Attend within windows.

        Args:
            x: tokens ``(B, H, W, C)``.

        Returns:
            Of the same shape.
        """
        side, shift = self.window_size[0], self.shift_size
        windows, pad_hw = window_partition(x, side, shift=shift)
        # (B * num_windows, side, side, C) -> (B * num_windows, side * side, C)
        tokens = self.attn(windows.flatten(1, 2), mask=_mask(pad_hw, side, shift, x))
        windows = tokens.unflatten(1, (side, side))
        return window_unpartition(windows, side, pad_hw, (x.shape[1], x.shape[2]), shift=shift)


class SwinBlock(_PaddedWindows, SwinTransformerBlock):
    """Block of Swin."""


class SwinV2Block(_PaddedWindows, SwinTransformerV2Block):
    """Block of Swin v2."""


_BLOCKS: dict[type[nn.Module], type[nn.Module]] = {
    SwinTransformerBlock: SwinBlock,
    SwinTransformerV2Block: SwinV2Block,
}


def use_padded_windows(model: nn.Module) -> None:
    """Give the blocks of a Swin of timm windows of the padded map; other models stay as they are.

    Parameters and their names do not change.

    Args:
        model: of timm, built with ``always_partition``; changed in place.
    """
    for module in model.modules():
        kind = _BLOCKS.get(type(module))
        if kind is not None:
            sides: Any = module.window_size
            assert sides[0] == sides[1], "timm's models have square windows"
            module.__class__ = kind
    embedding = getattr(model, "patch_embed", None)
    if hasattr(embedding, "dynamic_img_pad"):
        setattr(embedding, "dynamic_img_pad", True)  # noqa: B010  (not of every Module)


def _mask(
    pad_hw: tuple[int, int], side: int, shift: tuple[int, int], like: Tensor
) -> Tensor | None:
    """Return ``(num_windows, N, N)``, what keeps tokens of opposite borders apart."""
    if not any(shift):
        return None
    return spread_over_keys(*wrap_terms(pad_hw, side, shift, like)).squeeze(1)

# SPDX-License-Identifier: Apache-2.0
"""Multi-head self-attention over a token map, in windows or over the whole map.

Shapes: tokens ``(B, H, W, C)``; per head ``(B, heads, N, C / heads)`` with ``N = H * W``.

Source: ViTDet, arXiv 2203.16527, section 3; equals `Attention` in
detectron2/modeling/backbone/vit.py together with the window steps of its block. Shifted windows:
Swin, arXiv 2103.14030, section 3.2.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vitdet_d2.layers.attend import AttentionMethod, FusedMethod, Terms, attend
from vitdet_d2.layers.bias_strips import table_to_strips
from vitdet_d2.layers.bias_table import num_offsets
from vitdet_d2.layers.linear import Linear, linear
from vitdet_d2.layers.relative_position import decomposed_terms
from vitdet_d2.layers.rotary import RopeKind, Rotation, map_rotation, rotate, window_rotation
from vitdet_d2.layers.shifted_window import effective_shift, wrap_terms
from vitdet_d2.layers.window_partition import window_partition, window_unpartition

# Where the table of relative position biases is: in each block, or in the backbone, which hands
# over what the blocks need of it.
RelPosBias = Literal["per_block", "shared"]

# Which of query, key and value have a bias: all, none, or all but the key (without rotary positions
# the softmax would cancel it).
QkvBias = bool | Literal["qv"]


class Attention(nn.Module):
    """Self-attention with relative positions, decomposed, as biases or rotary, or with none.

    Parameters: ``qkv``, ``proj``, with decomposed positions ``rel_pos_h`` and ``rel_pos_w``, with
    biases of its own ``relative_position_bias_table``, and with biases of query and value alone
    ``q_bias`` and ``v_bias``.
    Attribute ``method`` chooses how the same numbers are computed, see `vitdet_d2.layers.attend`;
    ``fastest_on_cuda`` is what ``"auto"`` means on CUDA, where it was tried.
    """

    method: AttentionMethod
    fastest_on_cuda: FusedMethod | None

    rel_pos_h: Tensor
    rel_pos_w: Tensor
    relative_position_bias_table: Tensor
    q_bias: Tensor
    v_bias: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: QkvBias = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
        window_size: int = 0,
        shift: int = 0,
        rope: RopeKind | None = None,
        rel_pos_bias: RelPosBias | None = None,
    ) -> None:
        """Build the projections and the tables.

        Args:
            dim: channels of a token, a multiple of ``num_heads``.
            num_heads: number of heads.
            qkv_bias: whether query, key and value have a bias; ``"qv"``: query and value only.
            use_rel_pos: whether relative positions are added to the logits.
            rel_pos_zero_init: whether their tables start at zero, and not at random.
            input_size: token grid ``(H, W)`` that the tables are made for; needed with
                ``use_rel_pos`` and ``rel_pos_bias``. Other grids resize the tables.
            window_size: side of the windows, in tokens; 0: attend over the whole map.
            shift: how far the windows are moved down and to the right, in tokens; below
                ``window_size``.
            rope: which rotary positions turn query and key, see `vitdet_d2.layers.rotary`; the
                terms of relative positions use the query before that.
            rel_pos_bias: whether the logits gain a bias per head and offset, from a table of this
                layer, which starts at zero, or from a shared one, which `forward` is given.

        Raises:
            ValueError: ``dim`` does not divide, ``input_size`` is missing, or the shift does not
                fit the windows.
        """
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim: expected a multiple of num_heads={num_heads}, got {dim}")
        if input_size is None and (use_rel_pos or rel_pos_bias is not None):
            raise ValueError(
                "input_size: expected the token grid (H, W) for use_rel_pos or rel_pos_bias, "
                "got None"
            )
        if shift and not 0 < shift < window_size:
            raise ValueError(f"shift: expected 0 <= shift < window_size={window_size}, got {shift}")
        head_dim = dim // num_heads
        if rope is not None and head_dim % 4:
            raise ValueError(
                f"dim: expected a multiple of 4 * num_heads={4 * num_heads} with rope={rope!r}, "
                f"got {dim}"
            )
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.scale = head_dim**-0.5
        self.window_size = window_size
        self.shift = shift
        self.method = "auto"
        self.fastest_on_cuda = None
        self.rope = rope
        self.qkv_bias = qkv_bias
        self.qkv = Linear(dim, dim * 3, bias=qkv_bias is True)
        if qkv_bias == "qv":
            self.q_bias = nn.Parameter(torch.zeros(dim))
            self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = Linear(dim, dim)
        self.use_rel_pos = use_rel_pos
        if use_rel_pos and input_size is not None:
            for name, size in zip(("rel_pos_h", "rel_pos_w"), input_size, strict=True):
                table = nn.Parameter(torch.zeros(2 * size - 1, head_dim))
                if not rel_pos_zero_init:
                    nn.init.trunc_normal_(table, std=0.02)
                self.register_parameter(name, table)
        self.rel_pos_bias = rel_pos_bias
        self.input_size = input_size
        if rel_pos_bias == "per_block" and input_size is not None:
            self.relative_position_bias_table = nn.Parameter(
                torch.zeros(num_offsets(input_size), num_heads)
            )

    def forward(self, x: Tensor, bias_strips: Tensor | None = None) -> Tensor:
        """Attend over a token map.

        A padding token is zero before `qkv`, so its query, key and value are the bias: windows are
        cut after `qkv` and joined before `proj`, and neither runs on padding. Padding tokens are
        keys like any other, also in shifted windows, whose grid is moved over the padded map.

        Args:
            x: ``(B, H, W, C)``.
            bias_strips: the shared biases of relative positions as `table_to_strips` lays them
                out, for the grid of a window, or without windows of the map.

        Returns:
            ``(B, H, W, C)``.
        """
        hw = (x.shape[1], x.shape[2])
        bias = self._bias()
        # `qkv` itself is called where it can be, for the sake of hooks on it.
        qkv = linear(x, self.qkv.weight, bias) if self.qkv_bias == "qv" else self.qkv(x)
        if self.window_size == 0:
            rotation = self.rope and map_rotation(self.rope, hw, self.head_dim, qkv)
            strips = self._strips(bias_strips, hw)
            return self.proj(self._attend(qkv, rotation=rotation, strips=strips))
        shift = effective_shift(hw, self.window_size, self.shift)
        windows, pad_hw = window_partition(qkv, self.window_size, bias, shift)
        wraps = wrap_terms(pad_hw, self.window_size, shift, qkv) if any(shift) else None
        rotation = self.rope and window_rotation(
            self.rope, hw, pad_hw, self.window_size, shift, self.head_dim, qkv
        )
        strips = self._strips(bias_strips, (self.window_size, self.window_size))
        out = self._attend(windows, wraps, rotation, strips)
        return self.proj(window_unpartition(out, self.window_size, pad_hw, hw, shift))

    @property
    def rows_of_windows_are_independent(self) -> bool:
        """Whether a row of windows gives the same alone as in the map.

        Shifted windows wrap around, and rotary positions are those of the map.
        """
        return self.window_size > 0 and self.shift == 0 and self.rope is None

    def _bias(self) -> Tensor | None:
        """Return the bias ``(3 * C,)`` of query, key and value, if there is any."""
        if self.qkv_bias == "qv":
            return torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        return self.qkv.bias

    def _strips(self, shared: Tensor | None, hw: tuple[int, int]) -> Tensor | None:
        """Return the relative position biases for a token grid, if there are any."""
        if self.rel_pos_bias != "per_block":
            assert (shared is None) == (self.rel_pos_bias is None), "the backbone hands them over"
            return shared
        assert self.input_size is not None, "the constructor asks for it"
        return table_to_strips(self.relative_position_bias_table, self.input_size, hw)

    def _attend(
        self,
        qkv: Tensor,
        wraps: Terms | None = None,
        rotation: Rotation | None = None,
        strips: Tensor | None = None,
    ) -> Tensor:
        """Map ``(B, H, W, 3 * C)`` to ``(B, H, W, C)``.

        Args:
            qkv: queries, keys and values side by side.
            wraps: terms ``(nw, 1, N, .)`` of the ``nw`` windows of every image, image by image.
            rotation: cosines and sines ``(nw, 1, N, .)``, likewise.
            strips: biases of relative positions for the grid ``(H, W)``.
        """
        B, H, W, _ = qkv.shape
        # (B, H, W, 3 * C) -> 3 x (B, heads, N, C / heads)
        q, k, v = qkv.reshape(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        terms = None
        if self.use_rel_pos:
            terms = decomposed_terms(q, self.rel_pos_h, self.rel_pos_w, (H, W))
        if self.rope is not None and rotation is not None:
            q, k = rotate(q, rotation, self.rope), rotate(k, rotation, self.rope)
        if wraps is not None:
            terms = _add_wraps(terms, wraps, B)
        method = self.method
        if method == "auto" and self.fastest_on_cuda is not None and q.is_cuda:
            method = self.fastest_on_cuda
        out = attend(q, k, v, terms, self.scale, method, strips)
        return out.transpose(1, 2).reshape(B, H, W, -1)


def _add_wraps(terms: Terms | None, wraps: Terms, num_windows: int) -> Terms:
    """Return terms of all ``num_windows`` windows; of a single head if there are no others."""
    images = num_windows // wraps[0].shape[0]
    if terms is None:
        return (wraps[0].repeat(images, 1, 1, 1), wraps[1].repeat(images, 1, 1, 1))
    rel_h, rel_w = (
        (term.unflatten(0, (images, -1)) + wrap).flatten(0, 1)
        for term, wrap in zip(terms, wraps, strict=True)
    )
    return rel_h, rel_w

# SPDX-License-Identifier: Apache-2.0
"""One pre-norm transformer block of a plain ViT.

Source: ViTDet, arXiv 2203.16527, section 3; equals `Block` in detectron2/modeling/backbone/vit.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from vitdet_d2.layers.attention import Attention, QkvBias, RelPosBias
from vitdet_d2.layers.drop_path import DropPath
from vitdet_d2.layers.layer_scale import LayerScale
from vitdet_d2.layers.mlp import Mlp, hidden_width
from vitdet_d2.layers.residual_block import ConvBlockKind, make_conv_block
from vitdet_d2.layers.rotary import RopeKind
from vitdet_d2.layers.strips import map_strips, worth_strips
from vitdet_d2.layers.swiglu import SwiGLU
from vitdet_d2.layers.watched import watched

MlpKind = Literal["gelu", "swiglu"]


class Block(nn.Module):
    """Attention, perceptron, and after them, if asked for, a convolutional residual block."""

    ls1: nn.Module
    ls2: nn.Module
    mlp: nn.Module

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: QkvBias = True,
        drop_path: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        use_residual_block: bool = False,
        input_size: tuple[int, int] | None = None,
        conv_block: ConvBlockKind = "bottleneck",
        shift: int = 0,
        layer_scale_init: float | None = None,
        rope: RopeKind | None = None,
        mlp: MlpKind = "gelu",
        mlp_norm: bool = False,
        rel_pos_bias: RelPosBias | None = None,
    ) -> None:
        """Build the block.

        Args:
            dim: channels of a token.
            num_heads: number of attention heads.
            mlp_ratio: hidden width of the perceptron, in multiples of ``dim``.
            qkv_bias: whether query, key and value have a bias; ``"qv"``: query and value only.
            drop_path: probability that a sample leaves a branch out in training.
            norm_layer: makes the norm of a given width.
            act_layer: makes the activation.
            use_rel_pos: whether relative positions are added to the attention logits.
            rel_pos_zero_init: whether their tables start at zero.
            window_size: side of the attention windows, in tokens; 0: global attention.
            use_residual_block: whether a convolutional residual block follows.
            input_size: token grid ``(H, W)`` of the whole map, for global relative positions.
            conv_block: the kind of that residual block.
            shift: how far the windows are moved down and to the right, in tokens.
            layer_scale_init: first value of the factors of both branches; None: no factors.
            rope: which rotary positions turn query and key, if any.
            mlp: the perceptron: ``"gelu"``, two layers with ``act_layer`` between them, or
                ``"swiglu"``, gated.
            mlp_norm: whether the gated one has a norm of its hidden layer.
            rel_pos_bias: whether a bias per head and offset is added to the logits, from a table
                of the block or from a shared one.
        """
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(
            dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            use_rel_pos=use_rel_pos,
            rel_pos_zero_init=rel_pos_zero_init,
            input_size=(window_size, window_size) if window_size else input_size,
            window_size=window_size,
            shift=shift,
            rope=rope,
            rel_pos_bias=rel_pos_bias,
        )
        self.ls1 = _layer_scale(dim, layer_scale_init)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        hidden = hidden_width(dim, mlp_ratio)
        if mlp == "swiglu":
            self.mlp = SwiGLU(dim, hidden, norm_layer=norm_layer if mlp_norm else None)
        else:
            self.mlp = Mlp(dim, hidden, act_layer=act_layer)
        self.ls2 = _layer_scale(dim, layer_scale_init)
        self.window_size = window_size
        self.use_residual_block = use_residual_block
        if use_residual_block:
            self.residual = make_conv_block(conv_block, dim, act_layer=act_layer)

    def forward(self, x: Tensor, bias_strips: Tensor | None = None) -> Tensor:
        """Map a token map ``(B, H, W, C)`` to the same shape.

        Args:
            x: the token map.
            bias_strips: the shared biases of relative positions, if there are any, see
                `Attention.forward`.
        """
        if worth_strips(x) and not self.training and self._acts_on_rows() and not watched(self):
            x = self._in_strips(x, bias_strips)
        else:
            x = self._perceive(self._exchange(x, bias_strips))
        if self.use_residual_block:
            x = self.residual(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x

    def _acts_on_rows(self) -> bool:
        """Return whether all parts are ours, and none has been exchanged for one that needs more.

        A perceptron with a convolution, or a norm over the map, would not be the same in strips.
        """
        norms = all(isinstance(n, (nn.LayerNorm, nn.RMSNorm)) for n in (self.norm1, self.norm2))
        return norms and type(self.attn) is Attention and type(self.mlp) in (Mlp, SwiGLU)

    def _in_strips(self, x: Tensor, bias_strips: Tensor | None) -> Tensor:
        """Apply both branches with few rows of the map at a time, where they do not need all."""
        if not self.attn.rows_of_windows_are_independent:
            return map_strips(self._perceive, self._exchange(x, bias_strips))
        return map_strips(
            lambda rows: self._perceive(self._exchange(rows, bias_strips)), x, self.window_size
        )

    def _exchange(self, x: Tensor, bias_strips: Tensor | None) -> Tensor:
        """Add the branch of attention."""
        return x + self.drop_path(self.ls1(self.attn(self.norm1(x), bias_strips)))

    def _perceive(self, x: Tensor) -> Tensor:
        """Add the branch of the perceptron."""
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


def _layer_scale(dim: int, init: float | None) -> nn.Module:
    return nn.Identity() if init is None else LayerScale(dim, init)

# SPDX-License-Identifier: Apache-2.0
"""What a ViT is, seen on the module itself, so that weights can be compared with it.

Works with our ViT and with Detectron2's, whose attributes are fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vitdet_d2.layers.activation import QuickGELU


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What tensors do not show of a ViT.

    Attributes:
        num_heads: attention heads of a block; None: not told.
        act: activation of the perceptrons: ``gelu``, ``gelu_tanh``, ``quick_gelu``, or the class of
            another one; None: not told, as of gated ones.
        eps: of the layer norms; None: no layer norms.
        rope: kind of rotary positions, if any.
        has_class_position: whether the position embedding has a row for a class token.
    """

    num_heads: int | None
    act: str | None
    eps: float | None
    rope: str | None
    has_class_position: bool


def traits_of(vit: nn.Module) -> Traits:
    """Look at a ViT.

    Args:
        vit: with ``blocks``.
    """
    blocks = getattr(vit, "blocks", None)
    block: Any = blocks[0] if isinstance(blocks, nn.ModuleList) and len(blocks) else None
    norm = getattr(block, "norm1", None)
    return Traits(
        num_heads=getattr(getattr(block, "attn", None), "num_heads", None),
        act=getattr(vit, "act", None) or _activation(getattr(block, "mlp", None)),
        eps=norm.eps if isinstance(norm, nn.LayerNorm) else None,
        rope=getattr(vit, "rope", None),
        has_class_position=bool(getattr(vit, "pretrain_use_cls_token", False)),
    )


def _activation(mlp: Any) -> str | None:
    act = getattr(mlp, "act", None)
    if isinstance(act, nn.GELU):
        return "gelu" if act.approximate == "none" else "gelu_tanh"
    if isinstance(act, QuickGELU):
        return "quick_gelu"
    return type(act).__name__ if isinstance(act, nn.Module) else None

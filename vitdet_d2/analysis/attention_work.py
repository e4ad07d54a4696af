# SPDX-License-Identifier: Apache-2.0
"""The work of our attention layer by formula: the same for every way that it can be computed in.

Counted in Detectron2's layout, which published numbers refer to: padding tokens of windows go
through ``qkv`` and ``proj`` like all others. What only they cost is stated apart, since our layer
does not compute it.

Source: ViTDet, arXiv 2203.16527, section 3; what detectron2/modeling/backbone/vit.py computes.
"""

from __future__ import annotations

from vitdet_d2.analysis.work import Work, attention_product
from vitdet_d2.layers.attention import Attention


def attention_work(layer: Attention, shape: tuple[int, ...]) -> Work:
    """Return the work on a token map.

    Rotary positions, biases per offset and the softmax are no matrix products, and count nothing.

    Args:
        layer: with or without windows, relative positions and so on.
        shape: of the token map, ``(B, H, W, C)``.
    """
    B, H, W, C = shape
    h, w = (layer.window_size,) * 2 if layer.window_size else (H, W)
    windows = B * -(-H // h) * -(-W // w)
    tokens = windows * h * w
    padding = tokens - B * H * W
    projections = layer.qkv.out_features + layer.proj.out_features
    work = Work(
        flops=2 * tokens * C * projections,
        activations=tokens * projections,
        padding_flops=2 * padding * C * projections,
    )
    heads, width = layer.num_heads, layer.head_dim
    work += attention_product(windows, heads, h * w, h * w, width, width)
    if layer.use_rel_pos:
        terms = tokens * heads * (h + w)
        work += Work(flops=2 * terms * width, activations=terms)
    return work

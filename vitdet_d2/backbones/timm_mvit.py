# SPDX-License-Identifier: Apache-2.0
"""timm's MViTv2 for images of any size, and with the hybrid windows of its detectors.

timm's attention has tables of relative positions for one size of images and attends over the whole
map. Here the tables are resized to the map, as MViTv2's detection code does, and attention may be
*hybrid*: in windows, but for the last block of every stage from the second on, which attends over
the whole map, with keys and values pooled once more.

Shape legend: ``B`` images, ``N`` tokens, a class token first if there is one, ``C`` channels of one
head.

Source: MViTv2, arXiv 2112.01526, section 4.2 (Hwin); equals detectron2/modeling/backbone/mvit.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.mvitv2 import MultiScaleAttention, MultiScaleVit
from torch import Tensor, nn

from vitdet_d2.errors import RecipeError
from vitdet_d2.layers.attend import attend
from vitdet_d2.layers.relative_position import pooled_terms, spread_over_keys
from vitdet_d2.layers.window_partition import window_partition, window_unpartition

Size = tuple[int, int]


class PoolingAttention(MultiScaleAttention):
    """Attention with pooled queries, keys and values, over the whole map or in windows.

    Attributes:
        query_window: side of a window of queries, in tokens; 0: the whole map.
        key_window: side of the same window in pooled keys and values.
    """

    query_window: int = 0
    key_window: int = 0

    def forward(self, x: Tensor, feat_size: list[int]) -> tuple[Tensor, list[int]]:
        """Attend.

        Args:
            x: tokens ``(B, N, heads * C)``.
            feat_size: height and width of the map.

        Returns:
            Tokens of the pooled map, and its height and width.
        """
        B, N, _ = x.shape
        size = (int(feat_size[0]), int(feat_size[1]))
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, q_size = self._pooled(qkv[0], size, self.pool_q, self.norm_q)
        k, k_size = self._pooled(qkv[1], size, self.pool_k, self.norm_k)
        v, _ = self._pooled(qkv[2], size, self.pool_v, self.norm_v)
        if self.query_window:
            out = self._in_windows(q, k, v, q_size, k_size)
        else:
            out = self._everywhere(q, k, v, q_size, k_size)
        if self.residual_pooling:
            out = out + q
        return self.proj(out.transpose(1, 2).flatten(2)), list(q_size)

    def _pooled(
        self, x: Tensor, size: Size, pool: nn.Module | None, norm: nn.Module | None
    ) -> tuple[Tensor, Size]:
        """Pool a map of every head ``(B, heads, N, C)``; the class token stays as it is."""
        if pool is not None:
            first = int(self.has_cls_token)
            maps = x[:, :, first:].flatten(0, 1).transpose(1, 2).unflatten(2, size)
            maps = pool(maps)
            size = (maps.shape[2], maps.shape[3])
            tokens = maps.flatten(2).transpose(1, 2).unflatten(0, (-1, self.num_heads))
            x = torch.cat([x[:, :, :first], tokens], dim=2) if first else tokens
        return (x if norm is None else norm(x)), size

    def _everywhere(self, q: Tensor, k: Tensor, v: Tensor, q_size: Size, k_size: Size) -> Tensor:
        """Attend over the whole map, and the class token if there is one."""
        if self.rel_pos_type != "spatial":
            return F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        first = int(self.has_cls_token)
        terms = pooled_terms(q[:, :, first:], self.rel_pos_h, self.rel_pos_w, q_size, k_size)
        if not first:
            return attend(q, k, v, terms, self.scale, "auto")
        bias = F.pad(spread_over_keys(*terms), (first, 0, first, 0))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)

    def _in_windows(self, q: Tensor, k: Tensor, v: Tensor, q_size: Size, k_size: Size) -> Tensor:
        """Attend within windows; what pads the map is zero after pooling, and attended to."""
        q_side, k_side = (self.query_window,) * 2, (self.key_window,) * 2
        queries, padded = _windows(q, q_size, self.query_window)
        keys, _ = _windows(k, k_size, self.key_window)
        values, _ = _windows(v, k_size, self.key_window)
        terms = pooled_terms(queries, self.rel_pos_h, self.rel_pos_w, q_side, k_side)
        out = attend(queries, keys, values, terms, self.scale, "auto")
        maps = window_unpartition(
            out.squeeze(1).unflatten(1, q_side), self.query_window, padded, q_size
        )
        return maps.flatten(1, 2).unflatten(0, (-1, self.num_heads))


def _windows(x: Tensor, size: Size, side: int) -> tuple[Tensor, Size]:
    """Return ``(B * heads * windows, 1, side * side, C)`` of ``(B, heads, N, C)``."""
    windows, padded = window_partition(x.flatten(0, 1).unflatten(1, size), side)
    return windows.flatten(1, 2).unsqueeze(1), padded


def takes_any_size(model: nn.Module) -> bool:
    """Whether a model is an MViTv2 that `use_any_size` frees from its size.

    Args:
        model: of timm.
    """
    return isinstance(model, MultiScaleVit) and model.pos_embed is None and bool(_attentions(model))


def use_any_size(model: nn.Module) -> None:
    """Let an MViTv2 of timm take images of any size; other models stay as they are.

    At the size that the model was built for, its numbers are timm's.

    Args:
        model: changed in place; parameters and their names do not change.
    """
    if takes_any_size(model):
        for attention in _attentions(model):
            attention.__class__ = PoolingAttention


def use_hybrid_windows(name: str, model: nn.Module, window_size: int) -> None:
    """Make an MViTv2 of timm attend as its detectors do, and leave out its class token.

    Args:
        name: of the model, for messages.
        model: changed in place; parameters keep their names.
        window_size: side of the windows of the first stage, in its tokens; halved from stage to
            stage.

    Raises:
        RecipeError: the model is no MViTv2, or the windows cannot be halved so often.
    """
    if not takes_any_size(model):
        raise RecipeError(
            f"window_size={window_size}: hybrid windows are for models of the MViTv2 family, such "
            f"as mvitv2_base_cls; timm model {name!r} is none; leave window_size out (None)"
        )
    net: Any = model
    least = 2 ** (len(net.stages) - 1)
    if window_size < least or window_size % least:
        raise RecipeError(
            f"window_size={window_size}: expected a multiple of {least}, as it is halved after "
            f"each of {len(net.stages) - 1} stages; MViTv2's is 56"
        )
    net.cls_token, net.num_prefix_tokens = None, 0
    side = window_size
    for stage_index, stage in enumerate(net.stages):
        for block_index, block in enumerate(stage.blocks):
            block.has_cls_token = block.attn.has_cls_token = False
            is_last = block_index == len(stage.blocks) - 1
            _set_windows(block.attn, 0 if is_last and stage_index else side)
            if is_last and 0 < stage_index < len(net.stages) - 1:
                _pool_more(block.attn)
            if block_index == 0 and stage_index:
                side //= 2


def _set_windows(attention: Any, side: int) -> None:
    """Set the windows of one block from their side in the tokens that come in."""
    attention.query_window = side // attention.pool_q.stride[0]
    attention.key_window = side // attention.pool_k.stride[0]


def _pool_more(attention: Any) -> None:
    """Double the stride of keys and values."""
    for pool in (attention.pool_k, attention.pool_v):
        pool.stride = tuple(2 * stride for stride in pool.stride)


def _attentions(model: nn.Module) -> list[nn.Module]:
    kinds = (MultiScaleAttention, PoolingAttention)
    return [module for module in model.modules() if type(module) in kinds]

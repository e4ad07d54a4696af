# SPDX-License-Identifier: Apache-2.0
"""Softmax attention with relative positions of either kind, in several equivalent ways.

Shapes: ``q, k, v (B, heads, N, C)``, ``rel_h (B, heads, N, H)``, ``rel_w (B, heads, N, W)``,
``N = H * W``; results ``(B, heads, N, C)``. Terms that are the same for every head may have one
head. ``strips (heads, W, 2H - 1, W)`` hold a bias for every offset of query and key, see
`vitdet_d2.layers.bias_strips`. All ways compute

    softmax(scale * q k^T + rel_h[.., i] + rel_w[.., j] + bias[.., y - i, x - j]) v

for the query at (y, x) and the key at (i, j), and differ in memory and speed only:

* ``explicit``: the formula as written; keeps two ``N x N`` maps per head. The reference.
* ``augmented``: the terms become columns of query and key,
  ``Q' = [scale * q, rel_h, rel_w]``, ``K' = [k, onehot(i), onehot(j)]``; no ``N x N`` map at all,
  and gradients come for free. Exact: a one-hot product picks one number.
* ``triton``: one kernel of our own each way, CUDA only; keeps one number per query beside its
  arguments and its result, see `vitdet_d2.layers.attend_triton`;
* ``chunked``: an additive mask for some queries at a time. Without gradients no ``N x N`` map
  lives long; with gradients each chunk's is kept.
* ``tiled``: on the CPU, one head and few queries at a time, without SDPA, see
  `vitdet_d2.layers.attend_tiled`; where a gradient is wanted, ``chunked`` stands for it.

Biases are no product of few columns. With them ``augmented`` and ``chunked`` are the same: terms
become columns, and the biases, which all samples share, are the mask, in pieces that are computed
again in the backward pass, see `vitdet_d2.layers.attend_biased`.

Source: logits as detectron2 `add_decomposed_rel_pos`; augmentation: FlashBias, arXiv 2505.12044.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vitdet_d2.layers.attend_biased import attend_biased
from vitdet_d2.layers.attend_tiled import Terms, attend_tiled, key_columns
from vitdet_d2.layers.attend_triton import attend_triton
from vitdet_d2.layers.bias_strips import biases_of_rows, grid_of
from vitdet_d2.layers.relative_position import spread_over_keys
from vitdet_d2.layers.watched import read_by_compiler

AttentionMethod = Literal["auto", "explicit", "augmented", "chunked", "tiled", "triton"]
FusedMethod = Literal["augmented", "chunked", "tiled", "triton"]

# Elements of one mask chunk. Measured at 4096 tokens, 12 heads of 64, one CPU thread, seconds:
# 2^19 2.6, 2^21 1.9, 2^23 0.9, 2^24 1.2, 2^25 1.2 (augmented 2.0, explicit 3.2).
CHUNK_ELEMENTS = 1 << 23

# Longest sequence whose N x N map is kept for the backward pass on the CPU, where SDPA has no fused
# kernel for a mask with gradient. Measured, forward and backward, ms:
# augmented / chunked: 196 tokens 270 / 222, 400 tokens 18 / 13, 1600 tokens 351 / 280;
# augmented / explicit: 4096 tokens 2103 / 2618.
CPU_TRAINING_TOKENS = 2048


# Shortest sequence whose heads are worth products of their own.
TILED_TOKENS = 1024


def choose_method(
    device: torch.device, num_tokens: int, needs_grad: bool, dtype: torch.dtype = torch.float32
) -> FusedMethod:
    """Return the fastest way for a device and a sequence, by measurement.

    Args:
        device: where the attention runs.
        num_tokens: queries per head, ``N``.
        needs_grad: whether a backward pass will follow.
        dtype: of the queries.

    Returns:
        ``"augmented"`` on accelerators, whose fused kernels take no mask with gradient and whose
        memory an ``N x N`` mask would fill. On the CPU three times the head size costs more than
        a mask in the cache: without gradient ``"tiled"`` for long sequences and for all of half
        precision, otherwise ``"chunked"``, except in training on the longest.
    """
    if device.type != "cpu" or (needs_grad and num_tokens > CPU_TRAINING_TOKENS):
        return "augmented"
    tiled = num_tokens >= TILED_TOKENS or dtype == torch.bfloat16
    return "tiled" if tiled and not needs_grad else "chunked"


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    terms: Terms | None,
    scale: float,
    method: AttentionMethod,
    strips: Tensor | None = None,
) -> Tensor:
    """Attend in the chosen way.

    Args:
        q: unscaled queries ``(B, heads, N, C)``.
        k: keys, of the same shape.
        v: values, of the same shape.
        terms: terms ``(B, heads, N, H)`` and ``(B, heads, N, W)`` of relative positions or of a
            mask, if any.
        scale: factor of ``q k^T``.
        method: a way of the module, or ``"auto"``: `choose_method` decides.
        strips: ``(heads, W, 2 * H - 1, W)``, biases of relative positions, if any.

    Returns:
        ``(B, heads, N, C)``.

    Raises:
        ValueError: the method is unknown.
    """
    if method == "explicit":
        return attend_explicit(q, k, v, terms, scale, strips)
    if method not in get_args(AttentionMethod):
        expected = ", ".join(get_args(AttentionMethod))
        raise ValueError(f"attention method: expected one of {expected}, got {method!r}")
    if terms is None:
        if strips is not None:
            return attend_biased(q, k, v, strips, scale)
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, *terms))
    if method == "auto":
        method = choose_method(q.device, q.shape[2], needs_grad, q.dtype)
    if method == "triton" and strips is None:
        return attend_triton(q, k, v, terms, scale)
    if method == "augmented" or strips is not None:
        return attend_augmented(q, k, v, terms, scale, strips)
    # A compiler or tracer would write out every tile.
    if method == "tiled" and not needs_grad and not read_by_compiler():
        return attend_tiled(q, k, v, terms, scale)
    return attend_chunked(q, k, v, terms, scale)


def attend_explicit(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    terms: Terms | None,
    scale: float,
    strips: Tensor | None = None,
) -> Tensor:
    """Compute the formula of the module directly."""
    logits = (q * scale) @ k.transpose(-2, -1)
    if terms is not None:
        rel_h, rel_w = terms
        # One after the other, as Detectron2 and SAM add them, for the same bits.
        logits = logits.unflatten(-1, (rel_h.shape[-1], rel_w.shape[-1]))
        logits = (logits + rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
    if strips is not None:
        logits = logits + biases_of_rows(strips, 0, grid_of(strips)[0])
    return logits.softmax(dim=-1).to(v.dtype) @ v


def attend_augmented(
    q: Tensor, k: Tensor, v: Tensor, terms: Terms, scale: float, strips: Tensor | None = None
) -> Tensor:
    """Fold the terms into query and key, then call SDPA without any mask but that of biases.

    Head sizes are padded with zeros to a common multiple of 8: the fused kernels take no others.
    """
    rel_h, rel_w = (term.expand(*q.shape[:3], -1) for term in terms)
    columns = key_columns((rel_h.shape[-1], rel_w.shape[-1]), k)
    query = torch.cat([q * scale, rel_h, rel_w], dim=-1)
    key = torch.cat([k, columns.expand(*k.shape[:2], -1, -1)], dim=-1)
    head_dim, width = v.shape[-1], -(-query.shape[-1] // 8) * 8
    query, key, value = (F.pad(t, (0, width - t.shape[-1])) for t in (query, key, v))
    if strips is None:
        out = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    else:
        out = attend_biased(query, key, value, strips, 1.0)
    return out[..., :head_dim]


def attend_chunked(q: Tensor, k: Tensor, v: Tensor, terms: Terms, scale: float) -> Tensor:
    """Call SDPA for a few queries at a time, each with its slice of the additive mask."""
    B, heads, N, _ = q.shape
    step = max(1, CHUNK_ELEMENTS // (B * heads * N))
    chunks = []
    for start in range(0, N, step):
        part = slice(start, start + step)
        mask = spread_over_keys(terms[0][:, :, part], terms[1][:, :, part])
        chunks.append(
            F.scaled_dot_product_attention(q[:, :, part], k, v, attn_mask=mask, scale=scale)
        )
    return torch.cat(chunks, dim=2)

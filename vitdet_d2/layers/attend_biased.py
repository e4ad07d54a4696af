# SPDX-License-Identifier: Apache-2.0
"""Softmax attention with a bias per head and offset, in pieces of the ``N x N`` map.

No such map of a head outlives its piece, in training neither, except that of short sequences on
accelerators: the backward pass computes the weights of a piece again.
Shapes: ``q, k, v (B, heads, N, C)``, ``N = H * W``; strips as in `vitdet_d2.layers.bias_strips`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from vitdet_d2.layers.bias_strips import add_gradient_of_rows, biases_of_rows, grid_of

# Elements of one piece of the map on the CPU, where the cache should hold it. Measured with 12
# heads of 64, forward and backward, seconds: 25 windows of 196 tokens 2^19 0.259, 2^21 0.233, 2^23
# 0.271 (all at once and kept 0.244); 1024 tokens 0.335, 0.278, - (0.407); 4096 tokens -, 4.4, 4.2
# (11.3).
CPU_ELEMENTS = 1 << 21

# On accelerators a piece must give work to the whole device: 512 MB of biases in float32.
ELEMENTS = 1 << 27

# Longest sequence whose weights an accelerator may keep for the backward pass.
TOKENS_KEPT = 2048


def attend_biased(q: Tensor, k: Tensor, v: Tensor, strips: Tensor, scale: float) -> Tensor:
    """Attend with biases that all samples share.

    Args:
        q: unscaled queries ``(B, heads, N, C)``.
        k: keys, of the same shape.
        v: values, of the same shape.
        strips: ``(heads, W, 2 * H - 1, W)``; may be of more digits than ``q``.
        scale: factor of ``q k^T``.

    Returns:
        ``(B, heads, N, C)``.
    """
    way = _OnCpu.apply if q.device.type == "cpu" else attend_in_pieces
    return way(q, k, v, strips, scale)


def attend_in_pieces(q: Tensor, k: Tensor, v: Tensor, strips: Tensor, scale: float) -> Tensor:
    """Do the same with SDPA alone, whose fused kernels for accelerators take masks with gradient.

    Long sequences are computed again in the backward pass.
    """
    H, W = grid_of(strips)
    recompute = torch.is_grad_enabled() and H * W > TOKENS_KEPT
    pieces = []
    for first, last in _pieces_of_rows(q, strips, ELEMENTS):
        arguments = (q[:, :, first * W : last * W], k, v, strips, scale, first, last)
        if recompute:
            # Nothing random happens in a piece.
            piece = checkpoint(
                _attend_rows, *arguments, use_reentrant=False, preserve_rng_state=False
            )
        else:
            piece = _attend_rows(*arguments)
        pieces.append(piece)
    return torch.cat(pieces, dim=2)


def _attend_rows(
    q: Tensor, k: Tensor, v: Tensor, strips: Tensor, scale: float, first: int, last: int
) -> Tensor:
    """Attend for the queries of some rows of the map."""
    # Cast late only where a gradient comes back, whose sums over all queries need the digits.
    strips = strips if strips.requires_grad else strips.to(q.dtype)
    mask = biases_of_rows(strips, first, last).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None], scale=scale)


def _pieces_of_rows(q: Tensor, strips: Tensor, elements: int) -> list[tuple[int, int]]:
    """Return the first row of queries of each piece, and the one behind its last."""
    heads, N = q.shape[1:3]
    H, W = grid_of(strips)
    rows = min(H, max(1, elements // (heads * N * W)))
    return [(row, min(row + rows, H)) for row in range(0, H, rows)]


def _pieces_of_batch(q: Tensor, rows: list[tuple[int, int]], width: int) -> list[slice]:
    """Return slices of the batch that make pieces of the same size of these rows."""
    B, heads, N, _ = q.shape
    samples = max(1, CPU_ELEMENTS // (heads * N * rows[0][1] * width))
    return [slice(start, start + samples) for start in range(0, B, samples)]


class _OnCpu(torch.autograd.Function):
    """Attention that keeps queries, keys, values, biases and results for its backward pass.

    SDPA's fused kernel for the CPU takes no mask with gradient.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, strips: Tensor, scale: float) -> Tensor:
        W = strips.shape[3]
        mask = strips.to(q.dtype)
        rows = _pieces_of_rows(q, strips, CPU_ELEMENTS)
        out = torch.cat(
            [
                F.scaled_dot_product_attention(
                    q[:, :, first * W : last * W], k, v, scale=scale,
                    attn_mask=biases_of_rows(mask, first, last)[None],
                )
                for first, last in rows
            ],
            dim=2,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, strips, out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        q, k, v, strips, out = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            digits = torch.promote_types(q.dtype, torch.float32)
            found = _gradients(
                q.to(digits), k.to(digits), v.to(digits), out.to(digits), gradient.to(digits),
                strips.to(digits), ctx.scale,
            )  # fmt: skip
        of_query, of_key, of_value, of_strips = (
            t.to(like.dtype) for t, like in zip(found, (q, k, v, strips), strict=True)
        )
        return of_query, of_key, of_value, of_strips, None


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, gradient: Tensor, strips: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys, values and strips.

    With weights ``P = softmax(S)``, ``out = P v`` and ``G`` its gradient: that of ``S`` is
    ``P * (G v^T - rowsum(G * out))``.
    """
    W = strips.shape[3]
    q = q * scale
    mean = (gradient * out).sum(-1, keepdim=True)
    of_query = torch.empty_like(q)
    of_key, of_value = torch.zeros_like(k), torch.zeros_like(v)
    of_strips = torch.zeros_like(strips)
    rows = _pieces_of_rows(q, strips, CPU_ELEMENTS)
    batch = _pieces_of_batch(q, rows, W)
    for first, last in rows:
        part = slice(first * W, last * W)
        biases = biases_of_rows(strips, first, last)
        of_biases = torch.zeros_like(biases)
        for some in batch:
            weights = q[some, :, part] @ k[some].transpose(-2, -1)
            weights += biases
            weights = weights.softmax(-1)
            of_value[some] += weights.transpose(-2, -1) @ gradient[some, :, part]
            logits = gradient[some, :, part] @ v[some].transpose(-2, -1)
            logits -= mean[some, :, part]
            logits *= weights
            of_query[some, :, part] = logits @ k[some]
            of_key[some] += logits.transpose(-2, -1) @ q[some, :, part]
            of_biases += logits.sum(0)
        add_gradient_of_rows(of_strips, of_biases, first)
    of_query *= scale
    return of_query, of_key, of_value, of_strips

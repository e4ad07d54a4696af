# SPDX-License-Identifier: Apache-2.0
"""Attention with terms of relative positions as one CUDA kernel each way.

What it keeps for the backward pass is its arguments, its result and one number per query: no map of
queries and keys, and no columns added to queries and keys. Logits and sums are float32. Any grid,
head sizes up to 128. The same input gives the same bits.

Shapes: ``q, k, v (B, heads, N, C)``, ``rel_h (B, heads, N, H)``, ``rel_w (B, heads, N, W)``,
``N = H * W``.

Source: the idea of keeping the terms in registers: segment-anything-fast; see
`vitdet_d2.layers.triton_kernels` for the formulas.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_HEAD_DIM = 128
# Keys of a tile, and the narrowest of its rows: the smallest side that a matrix unit takes.
TILE_KEYS = 64
MIN_COLUMNS = 16
# Chosen by what the compiler makes of them for compute capability 9.0, in bfloat16: no, or hardly
# any, registers spilled (heads of 64 none, of 80 up to 248 bytes; with 4 warps up to 648), and
# shared memory for at least two programs at once.
FORWARD_QUERIES = 128
BACKWARD_QUERIES = 64
WARPS = 8


def unsupported(q: Tensor) -> str | None:
    """Say why queries cannot be attended to here; None if they can.

    Args:
        q: ``(B, heads, N, C)``.
    """
    if q.device.type != "cuda" and not _interpreted():
        return f"needs a CUDA device, got {q.device.type}"
    if q.dtype not in DTYPES:
        return f"takes bfloat16, float16 and float32, got {q.dtype}"
    if q.shape[-1] > MAX_HEAD_DIM:
        return f"takes heads of up to {MAX_HEAD_DIM} channels, got {q.shape[-1]}"
    return None


def _interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on any device, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def attend_triton(
    q: Tensor, k: Tensor, v: Tensor, terms: tuple[Tensor, Tensor], scale: float
) -> Tensor:
    """Attend.

    Args:
        q: unscaled queries ``(B, heads, N, C)``.
        k: keys, of the same shape.
        v: values, of the same shape.
        terms: ``(B, heads, N, H)`` and ``(B, heads, N, W)``; those with one head are for all heads.
        scale: factor of ``q k^T``.

    Returns:
        ``(B, heads, N, C)``, laid out as ``(B, N, heads, C)``.

    Raises:
        ValueError: the device, the number format or the size of heads is not supported.
    """
    reason = unsupported(q)
    if reason is not None:
        raise ValueError(
            f"attention method 'triton' {reason}; take method 'auto', which chooses by device"
        )
    rel_h, rel_w = (term.expand(*q.shape[:3], -1) for term in terms)
    out: Tensor = _attend(q, k, v, rel_h, rel_w, scale)[0]
    return out


@torch.library.custom_op("vitdet_d2::attend_terms", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the result, and ``(B, heads, N)`` base-2 logarithms of the sums of weights."""
    from vitdet_d2.layers.triton_kernels import attention_forward

    q, k, v, rel_h, rel_w = (_rows(t) for t in (q, k, v, rel_h, rel_w))
    B, heads, N, C = q.shape
    out, lse = _like_tokens(q), q.new_empty(B, heads, N, dtype=torch.float32)
    blocks = _blocks(C, rel_w.shape[-1], FORWARD_QUERIES)
    with torch.cuda.device_of(q):  # Triton starts kernels on the current device
        attention_forward[(-(-N // FORWARD_QUERIES), B * heads)](
            q, k, v, rel_h, rel_w, out, lse,
            *_strides(q, k, v, rel_h, rel_w, out),
            heads, N, rel_h.shape[-1], rel_w.shape[-1], scale,
            **blocks, num_warps=WARPS, num_stages=3 if C <= 64 else 2,
        )  # fmt: skip
    return out, lse


@_attend.register_fake
def _attend_fake(q: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
    return _like_tokens(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("vitdet_d2::attend_terms_backward", mutates_args=())
def _attend_backward(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, out: Tensor, lse: Tensor,
    gradient: Tensor, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of queries, keys, values and terms."""
    from vitdet_d2.layers.triton_kernels import attention_backward_keys, attention_backward_queries

    q, k, v, rel_h, rel_w = (_rows(t) for t in (q, k, v, rel_h, rel_w))
    gradient = _rows(gradient.to(q.dtype))
    B, heads, N, C = q.shape
    H, W = rel_h.shape[-1], rel_w.shape[-1]
    delta = (gradient.float() * out.float()).sum(-1)
    of_query, of_key, of_value = (_like_tokens(t) for t in (q, k, v))
    of_rel_h = q.new_empty(B, heads, N, H, dtype=torch.float32)
    of_rel_w = q.new_empty(B, heads, N, W, dtype=torch.float32)
    blocks = _blocks(C, W, BACKWARD_QUERIES)
    inputs = (q, k, v, rel_h, rel_w, gradient, lse, delta)
    strides = _strides(q, k, v, rel_h, rel_w, gradient)
    sizes = (heads, N, H, W, scale)
    stages = _backward_stages(q)
    tiles = -(-H // blocks["ROWS"]) * -(-W // blocks["COLUMNS"])
    with torch.cuda.device_of(q):
        attention_backward_queries[(-(-N // BACKWARD_QUERIES), B * heads)](
            *inputs, of_query, of_rel_h, of_rel_w, *strides, *_strides(of_query), *sizes, **blocks,
            num_warps=WARPS, num_stages=stages,
        )  # fmt: skip
        attention_backward_keys[(tiles, B * heads)](
            *inputs, of_key, of_value, *strides, *_strides(of_key, of_value), *sizes, **blocks,
            num_warps=WARPS, num_stages=stages,
        )  # fmt: skip
    return of_query, of_key, of_value, of_rel_h.to(rel_h.dtype), of_rel_w.to(rel_w.dtype)


@_attend_backward.register_fake
def _attend_backward_fake(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, *_others: Any
) -> tuple[Tensor, ...]:
    terms = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (rel_h, rel_w))
    return (*(_like_tokens(t) for t in (q, k, v)), *terms)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:5], *output)
    ctx.scale = inputs[5]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gradient: Tensor, _of_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*_attend_backward(*ctx.saved_tensors, gradient, ctx.scale), None)


_attend.register_autograd(_backward, setup_context=_keep)


def _backward_stages(q: Tensor) -> int:
    """Return how many tiles the backward pass loads ahead.

    Before Hopper, two make the compiler spill 5 KB of registers per thread, one at most 230 bytes.
    """
    if q.device.type != "cuda":
        return 2
    return 2 if torch.cuda.get_device_capability(q.device) >= (9, 0) else 1


def _rows(t: Tensor) -> Tensor:
    """Return a tensor whose channels lie side by side; mostly the same."""
    return t if t.stride(-1) == 1 else t.contiguous()


def _like_tokens(t: Tensor) -> Tensor:
    """Return an empty ``(B, heads, N, C)`` in which the heads of a token lie side by side."""
    B, heads, N, C = t.shape
    return t.new_empty(B, N, heads, C).transpose(1, 2)


def _strides(*tensors: Tensor) -> list[int]:
    """Return the first three strides of each."""
    return [stride for t in tensors for stride in t.stride()[:3]]


def _blocks(head_dim: int, width: int, queries: int) -> dict[str, int]:
    """Return the sizes of tiles for a head size and a grid of this width."""
    columns = tile_columns(width)
    return {
        "C": head_dim,
        "BLOCK_C": max(16, 1 << (head_dim - 1).bit_length()),
        "BLOCK_M": queries,
        "ROWS": TILE_KEYS // columns,
        "COLUMNS": columns,
    }


def tile_columns(width: int) -> int:
    """Return how many columns of the key grid a tile has: as few as possible behind the last one.

    Args:
        width: of the grid, in tokens.

    Returns:
        16, 32 or 64; the widest of those that waste equally little.
    """
    options = [TILE_KEYS >> shift for shift in range(3)]
    assert options[-1] == MIN_COLUMNS
    return min(options, key=lambda columns: -(-width // columns) * columns)

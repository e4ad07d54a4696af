# SPDX-License-Identifier: Apache-2.0
"""Kernels of attention with the terms of relative positions, for CUDA, in Triton.

Forward, with base-2 logits ``S = log2(e) * (scale * q k^T + rel_h[.., i] + rel_w[.., j])``:
``P = 2^(S - lse)``, ``out = P v``. Backward, with ``G`` the gradient of ``out`` and
``delta = rowsum(G * out)``: ``dS = P * (G v^T - delta)``, ``dq = scale * dS k``,
``dk = scale * dS^T q``, ``dv = P^T G``, ``d rel_h[.., i] = sum_j dS``,
``d rel_w[.., j] = sum_i dS``. No kernel writes to one place from two programs: results do not
depend on the order in which programs run.

Keys come in tiles of ``ROWS`` rows and ``COLUMNS`` columns of their grid, so that the sums of
``dS`` along rows and columns stay inside a tile. Tensors are ``(B, heads, N, C)`` by their strides,
of which the last is 1.

Source: FlashAttention-2, arXiv 2307.08691, for the order of the loops.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# What is multiplied in float32 keeps its digits, as torch's matmul does by default.
PRECISION = tl.constexpr("ieee")


@triton.jit
def _origin(pointer, stride_b, stride_h, heads):  # type: ignore[no-untyped-def]
    """Return where the head of this program begins."""
    head = tl.program_id(1)
    return pointer + (head // heads).to(tl.int64) * stride_b + (head % heads) * stride_h


@triton.jit
def _tile_columns(first_column, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the grid column of each key of a tile."""
    return first_column + tl.arange(0, ROWS * COLUMNS) % COLUMNS


@triton.jit
def _tile_rows(first_row, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the grid row of each key of a tile."""
    return first_row + tl.arange(0, ROWS * COLUMNS) // COLUMNS


@triton.jit
def _of_rows(values, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Give each key of a tile ``(M, ROWS * COLUMNS)`` the value ``(M, ROWS)`` of its row."""
    spread = tl.broadcast_to(values[:, :, None], [values.shape[0], ROWS, COLUMNS])
    return tl.reshape(spread, [values.shape[0], ROWS * COLUMNS])


@triton.jit
def _of_columns(values, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Give each key of a tile ``(M, ROWS * COLUMNS)`` the value ``(M, COLUMNS)`` of its column."""
    spread = tl.broadcast_to(values[:, None, :], [values.shape[0], ROWS, COLUMNS])
    return tl.reshape(spread, [values.shape[0], ROWS * COLUMNS])


@triton.jit
def _terms(term, stride, m, place, limit, is_query):  # type: ignore[no-untyped-def]
    """Load the terms of some queries with some rows, or columns, of keys."""
    pointers = term + m[:, None] * stride + place[None, :]
    return tl.load(pointers, is_query & (place < limit)[None, :], other=0.0).to(tl.float32)


@triton.jit
def attention_forward(  # type: ignore[no-untyped-def]
    q, k, v, rel_h, rel_w, out, lse,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, rh_b, rh_h, rh_n, rw_b, rw_h, rw_n, o_b, o_h, o_n,
    heads, N, H, W, scale,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Attend for ``BLOCK_M`` queries of one head, and store ``out`` and ``lse (B * heads, N)``."""
    q, k, v = _origin(q, q_b, q_h, heads), _origin(k, k_b, k_h, heads), _origin(v, v_b, v_h, heads)
    rel_h, rel_w = _origin(rel_h, rh_b, rh_h, heads), _origin(rel_w, rw_b, rw_h, heads)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.arange(0, BLOCK_C)
    is_query, is_channel = (m < N)[:, None], c < C
    query = tl.load(q + m[:, None] * q_n + c[None, :], is_query & is_channel[None, :], other=0.0)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for first_column in range(0, W, COLUMNS):
        j = _tile_columns(first_column, ROWS, COLUMNS)
        column = first_column + tl.arange(0, COLUMNS)
        bias_w = _of_columns(_terms(rel_w, rw_n, m, column, W, is_query), ROWS, COLUMNS)
        for first_row in range(0, H, ROWS):
            i = _tile_rows(first_row, ROWS, COLUMNS)
            is_key = (i < H) & (j < W)
            key_mask = is_key[:, None] & is_channel[None, :]
            n = i * W + j
            row = first_row + tl.arange(0, ROWS)
            bias_h = _of_rows(_terms(rel_h, rh_n, m, row, H, is_query), ROWS, COLUMNS)
            key = tl.load(k + n[:, None] * k_n + c[None, :], key_mask, other=0.0)
            logits = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
            logits = (logits + bias_h + bias_w) * LOG2_E
            logits = tl.where(is_key[None, :], logits, float("-inf"))
            higher = tl.maximum(top, tl.max(logits, 1))
            # Where every key so far is masked by -inf, the difference of infinities is no number.
            base = tl.where(higher == float("-inf"), 0.0, higher)
            weights = tl.exp2(logits - base[:, None])
            shrink = tl.exp2(top - base)
            total = total * shrink + tl.sum(weights, 1)
            value = tl.load(v + n[:, None] * v_n + c[None, :], key_mask, other=0.0)
            acc = acc * shrink[:, None]
            acc += tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
            top = higher
    acc = acc / total[:, None]
    out = _origin(out, o_b, o_h, heads)
    tl.store(
        out + m[:, None] * o_n + c[None, :],
        acc.to(out.dtype.element_ty),
        is_query & is_channel[None, :],
    )
    tl.store(lse + tl.program_id(1).to(tl.int64) * N + m, top + tl.log2(total), m < N)


@triton.jit
def attention_backward_queries(  # type: ignore[no-untyped-def]
    q, k, v, rel_h, rel_w, gradient, lse, delta, of_query, of_rel_h, of_rel_w,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, rh_b, rh_h, rh_n, rw_b, rw_h, rw_n, g_b, g_h, g_n,
    dq_b, dq_h, dq_n,
    heads, N, H, W, scale,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store the gradients of ``BLOCK_M`` queries of one head, and of their terms.

    Those of the terms, ``(B * heads, N, H)`` and ``(B * heads, N, W)``, are contiguous.
    """
    q, k, v = _origin(q, q_b, q_h, heads), _origin(k, k_b, k_h, heads), _origin(v, v_b, v_h, heads)
    rel_h, rel_w = _origin(rel_h, rh_b, rh_h, heads), _origin(rel_w, rw_b, rw_h, heads)
    gradient = _origin(gradient, g_b, g_h, heads)
    head = tl.program_id(1).to(tl.int64)
    of_rel_h += head * N * H
    of_rel_w += head * N * W
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.arange(0, BLOCK_C)
    is_query, is_channel = (m < N)[:, None], c < C
    query_mask = is_query & is_channel[None, :]
    query = tl.load(q + m[:, None] * q_n + c[None, :], query_mask, other=0.0)
    grad = tl.load(gradient + m[:, None] * g_n + c[None, :], query_mask, other=0.0)
    # 2^(logit - inf) = 0: rows behind the last query have no weights.
    log_sum = tl.load(lse + head * N + m, m < N, other=float("inf"))
    mean = tl.load(delta + head * N + m, m < N, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for first_column in range(0, W, COLUMNS):
        j = _tile_columns(first_column, ROWS, COLUMNS)
        column = first_column + tl.arange(0, COLUMNS)
        bias_w = _of_columns(_terms(rel_w, rw_n, m, column, W, is_query), ROWS, COLUMNS)
        of_columns = tl.zeros([BLOCK_M, ROWS * COLUMNS], tl.float32)
        for first_row in range(0, H, ROWS):
            i = _tile_rows(first_row, ROWS, COLUMNS)
            is_key = (i < H) & (j < W)
            key_mask = is_key[:, None] & is_channel[None, :]
            n = i * W + j
            row = first_row + tl.arange(0, ROWS)
            bias_h = _of_rows(_terms(rel_h, rh_n, m, row, H, is_query), ROWS, COLUMNS)
            key = tl.load(k + n[:, None] * k_n + c[None, :], key_mask, other=0.0)
            value = tl.load(v + n[:, None] * v_n + c[None, :], key_mask, other=0.0)
            logits = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
            logits = (logits + bias_h + bias_w) * LOG2_E
            logits = tl.where(is_key[None, :], logits, float("-inf"))
            weights = tl.exp2(logits - log_sum[:, None])
            of_logits = tl.dot(grad, tl.trans(value), input_precision=PRECISION)
            of_logits = weights * (of_logits - mean[:, None])
            acc += tl.dot(of_logits.to(key.dtype), key, input_precision=PRECISION)
            of_columns += of_logits
            of_rows = tl.sum(tl.reshape(of_logits, [BLOCK_M, ROWS, COLUMNS]), 2)
            place = of_rel_h + m[:, None] * H + row[None, :]
            row_mask = is_query & (row < H)[None, :]
            # Earlier columns of the same rows are of this very program.
            of_rows += tl.load(place, row_mask & (first_column > 0), other=0.0)
            tl.store(place, of_rows, row_mask)
        tl.store(
            of_rel_w + m[:, None] * W + column[None, :],
            tl.sum(tl.reshape(of_columns, [BLOCK_M, ROWS, COLUMNS]), 1),
            is_query & (column < W)[None, :],
        )
    of_query = _origin(of_query, dq_b, dq_h, heads)
    tl.store(
        of_query + m[:, None] * dq_n + c[None, :],
        (acc * scale).to(of_query.dtype.element_ty),
        query_mask,
    )


@triton.jit
def attention_backward_keys(  # type: ignore[no-untyped-def]
    q, k, v, rel_h, rel_w, gradient, lse, delta, of_key, of_value,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, rh_b, rh_h, rh_n, rw_b, rw_h, rw_n, g_b, g_h, g_n,
    dk_b, dk_h, dk_n, dv_b, dv_h, dv_n,
    heads, N, H, W, scale,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Store the gradients of one tile of keys and values of one head.

    Everything is transposed here, ``(keys, queries)``, so that no product needs its left side
    turned.
    """
    q, k, v = _origin(q, q_b, q_h, heads), _origin(k, k_b, k_h, heads), _origin(v, v_b, v_h, heads)
    rel_h, rel_w = _origin(rel_h, rh_b, rh_h, heads), _origin(rel_w, rw_b, rw_h, heads)
    gradient = _origin(gradient, g_b, g_h, heads)
    head = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(W, COLUMNS)
    first_column, first_row = tl.program_id(0) % across * COLUMNS, tl.program_id(0) // across * ROWS
    column, row = first_column + tl.arange(0, COLUMNS), first_row + tl.arange(0, ROWS)
    j = _tile_columns(first_column, ROWS, COLUMNS)
    i = _tile_rows(first_row, ROWS, COLUMNS)
    c = tl.arange(0, BLOCK_C)
    is_channel = c < C
    is_key = ((i < H) & (j < W))[:, None]
    key_mask = is_key & is_channel[None, :]
    n = i * W + j
    key = tl.load(k + n[:, None] * k_n + c[None, :], key_mask, other=0.0)
    value = tl.load(v + n[:, None] * v_n + c[None, :], key_mask, other=0.0)
    acc_key = tl.zeros([ROWS * COLUMNS, BLOCK_C], tl.float32)
    acc_value = tl.zeros([ROWS * COLUMNS, BLOCK_C], tl.float32)
    for first in range(0, N, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        in_range = (m < N)[:, None]
        query_mask = in_range & is_channel[None, :]
        query = tl.load(q + m[:, None] * q_n + c[None, :], query_mask, other=0.0)
        grad = tl.load(gradient + m[:, None] * g_n + c[None, :], query_mask, other=0.0)
        log_sum = tl.load(lse + head * N + m, m < N, other=float("inf"))
        mean = tl.load(delta + head * N + m, m < N, other=0.0)
        bias = _of_rows(_terms(rel_h, rh_n, m, row, H, in_range), ROWS, COLUMNS)
        bias += _of_columns(_terms(rel_w, rw_n, m, column, W, in_range), ROWS, COLUMNS)
        logits = tl.dot(key, tl.trans(query), input_precision=PRECISION) * scale
        logits = tl.where(is_key, (logits + tl.trans(bias)) * LOG2_E, float("-inf"))
        weights = tl.exp2(logits - log_sum[None, :])
        acc_value += tl.dot(weights.to(grad.dtype), grad, input_precision=PRECISION)
        of_logits = tl.dot(value, tl.trans(grad), input_precision=PRECISION)
        of_logits = weights * (of_logits - mean[None, :])
        acc_key += tl.dot(of_logits.to(query.dtype), query, input_precision=PRECISION)
    of_key, of_value = _origin(of_key, dk_b, dk_h, heads), _origin(of_value, dv_b, dv_h, heads)
    tl.store(
        of_key + n[:, None] * dk_n + c[None, :],
        (acc_key * scale).to(of_key.dtype.element_ty),
        key_mask,
    )
    tl.store(
        of_value + n[:, None] * dv_n + c[None, :],
        acc_value.to(of_value.dtype.element_ty),
        key_mask,
    )

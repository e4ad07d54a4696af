# SPDX-License-Identifier: Apache-2.0
"""Kernels of non-maximum suppression for CUDA, in Triton.

The first finds for every box, in parallel, which worse boxes of its list it would suppress: one bit
each, 32 in a word. The second goes through each list once, from the best box to the worst, and
drops what the boxes that remain suppress; the lists run side by side. Sums are float32, without
fused operations, so that the bits are those of the CPU.

Shapes: ``G`` lists of ``K`` boxes, ``W = ceil(K / 32)`` words.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows of boxes that one program compares with the 32 of a word.
BLOCK_ROWS = 128
WORD = tl.constexpr(32)


@triton.jit
def suppression_bits(boxes, bits, K, W, threshold, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store which of 32 boxes each of ``ROWS`` boxes suppresses: ``bits (G, 32 W, W)``."""
    group, word = tl.program_id(0).to(tl.int64), tl.program_id(2)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, WORD)
    column = word * WORD + lane
    own = boxes + (group * K + row) * 4
    other = boxes + (group * K + column) * 4
    x0 = tl.load(own, row < K, other=0.0)[:, None]
    y0 = tl.load(own + 1, row < K, other=0.0)[:, None]
    x1 = tl.load(own + 2, row < K, other=0.0)[:, None]
    y1 = tl.load(own + 3, row < K, other=0.0)[:, None]
    u0 = tl.load(other, column < K, other=0.0)[None, :]
    v0 = tl.load(other + 1, column < K, other=0.0)[None, :]
    u1 = tl.load(other + 2, column < K, other=0.0)[None, :]
    v1 = tl.load(other + 3, column < K, other=0.0)[None, :]
    width = tl.maximum(tl.minimum(x1, u1) - tl.maximum(x0, u0), 0.0)
    height = tl.maximum(tl.minimum(y1, v1) - tl.maximum(y0, v0), 0.0)
    common = width * height
    union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - common
    # Two empty boxes have no union, and nothing in common.
    overlap = tl.div_rn(common, tl.where(union > 0, union, 1.0)) > threshold
    worse = column[None, :] > row[:, None]
    bit = tl.where(overlap & worse, 1, 0) << lane[None, :]
    place = bits + (group * W * WORD + row) * W + word
    tl.store(place, tl.sum(bit, axis=1), row < W * WORD)


@triton.jit
def drop_suppressed(bits, dropped, W, WORDS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store which boxes of a list a better, kept one suppresses: ``dropped (G, W)`` int32."""
    group = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, WORDS)
    gone = tl.zeros([WORDS], dtype=tl.int32)
    rows = bits + group * W * 32 * W
    for word in range(W):
        # The bits of this word are followed in a scalar, which no thread asks another one for.
        gone_here = tl.sum(tl.where(index == word, gone, 0), axis=0)
        for lane in tl.static_range(32):
            # Loaded before it is known whether they count: loads do not wait for each other.
            start = rows + (word * 32 + lane) * W
            row = tl.load(start + index, index < W, other=0)
            row_here = tl.load(start + word)
            counts = ((gone_here >> lane) & 1) == 0
            gone_here = gone_here | tl.where(counts, row_here, 0)
            gone = gone | tl.where(counts, row, 0)
    tl.store(dropped + group * W + index, gone, index < W)


def keep_of_lists(lists: Tensor, threshold: float) -> Tensor:
    """Mark the boxes of sorted lists that no better, kept box of the list overlaps.

    Args:
        lists: ``(G, K, 4)`` float32 XYXY, best first; not empty.
        threshold: IoU above which the worse of two boxes is dropped.

    Returns:
        ``(G, K)`` bool.
    """
    lists = lists.contiguous()
    num_lists, num_boxes = lists.shape[:2]
    num_words = -(-num_boxes // WORD.value)
    bits = lists.new_empty(num_lists, WORD.value * num_words, num_words, dtype=torch.int32)
    dropped = lists.new_empty(num_lists, num_words, dtype=torch.int32)
    with torch.cuda.device_of(lists):  # Triton starts kernels on the current device
        suppression_bits[(num_lists, -(-num_boxes // BLOCK_ROWS), num_words)](
            lists,
            bits,
            num_boxes,
            num_words,
            threshold,
            ROWS=BLOCK_ROWS,
            num_warps=4,
            enable_fp_fusion=False,
        )
        drop_suppressed[(num_lists,)](
            bits, dropped, num_words, WORDS=triton.next_power_of_2(num_words), num_warps=1
        )
    lane = torch.arange(WORD.value, device=lists.device, dtype=torch.int32)
    is_dropped = (dropped[:, :, None] >> lane) & 1
    return is_dropped.flatten(1)[:, :num_boxes] == 0

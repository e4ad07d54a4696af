# SPDX-License-Identifier: Apache-2.0
"""Keep freed memory of the CPU for the next map of the same size.

glibc maps every block above a threshold anew, and hands it back when it is freed: the system fills
it with zeros page by page each time, which is a third of a forward pass of Detectron2's ViT-B. The
threshold follows the largest mapped block that was freed, up to 32 MB, and how much memory a
process keeps is twice the threshold.
"""

from __future__ import annotations

import functools

import torch

# Just below what glibc's threshold can rise to (DEFAULT_MMAP_THRESHOLD_MAX), with its own header.
_LARGEST_FOLLOWED = (32 << 20) - (64 << 10)


@functools.cache
def keep_freed_blocks() -> None:
    """Let the allocator keep freed blocks of up to 32 MB, once in a process.

    A block is mapped and freed without being touched: that costs microseconds and no memory. With
    another allocator than glibc's nothing changes.
    """
    torch.empty(_LARGEST_FOLLOWED, dtype=torch.uint8, device="cpu")

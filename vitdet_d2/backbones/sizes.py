# SPDX-License-Identifier: Apache-2.0
"""Sizes of the plain ViTs, in one table.

Source: Ti, S: DeiT, arXiv 2012.12877, table 1; B, L, H: arXiv 2010.11929, table 1; global blocks:
ViTDet, arXiv 2203.16527, section 3 (four evenly spaced blocks, the last of each quarter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vitdet_d2.backbones.placement import even_blocks


@dataclass(frozen=True, kw_only=True)
class ViTSize:
    """Width, depth and heads of a plain ViT."""

    embed_dim: int
    depth: int
    num_heads: int

    @property
    def global_block_indexes(self) -> tuple[int, ...]:
        """Blocks with global attention: the last of each quarter of the depth."""
        return tuple(even_blocks(self.depth))

    @property
    def window_block_indexes(self) -> tuple[int, ...]:
        """Blocks with windowed attention: all others."""
        return tuple(i for i in range(self.depth) if i not in self.global_block_indexes)


VIT_SIZES = {
    "ti": ViTSize(embed_dim=192, depth=12, num_heads=3),
    "s": ViTSize(embed_dim=384, depth=12, num_heads=6),
    "b": ViTSize(embed_dim=768, depth=12, num_heads=12),
    "l": ViTSize(embed_dim=1024, depth=24, num_heads=16),
    "h": ViTSize(embed_dim=1280, depth=32, num_heads=16),
}


def vit_arguments(size: str) -> dict[str, int | Sequence[int]]:
    """Return the arguments of `ViT` that differ between the sizes.

    Args:
        size: a name in the table, such as ``"b"``.

    Returns:
        ``embed_dim``, ``depth``, ``num_heads`` and ``window_block_indexes``.

    Raises:
        ValueError: the table has no such name.
    """
    if size not in VIT_SIZES:
        raise ValueError(f"size: expected one of {', '.join(VIT_SIZES)}, got {size!r}")
    chosen = VIT_SIZES[size]
    return {**asdict(chosen), "window_block_indexes": list(chosen.window_block_indexes)}

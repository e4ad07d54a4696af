# SPDX-License-Identifier: Apache-2.0
"""Sizes of the pyramid transformers, in one table per family.

Source: PVT, arXiv 2102.12122, table 1; PVT v2, arXiv 2106.13797, table 1; MiT: SegFormer, arXiv
2105.15203, table 6; all as in the released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PyramidSize:
    """What differs between the sizes of a family, per stage; the rest is the same for all."""

    depths: tuple[int, int, int, int]
    embed_dims: tuple[int, int, int, int] = (64, 128, 320, 512)
    mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4)
    num_heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    sr_ratios: tuple[int, int, int, int] = (8, 4, 2, 1)

    def arguments(self) -> dict[str, list[int]]:
        """Return the constructor's arguments, as lists, which recipes can hold."""
        return {
            "embed_dims": list(self.embed_dims),
            "depths": list(self.depths),
            "num_heads": list(self.num_heads),
            "mlp_ratios": list(self.mlp_ratios),
            "sr_ratios": list(self.sr_ratios),
        }


_NARROW = (32, 64, 160, 256)
_FOURFOLD = (4, 4, 4, 4)

PVT_SIZES = {
    "tiny": PyramidSize(depths=(2, 2, 2, 2)),
    "small": PyramidSize(depths=(3, 4, 6, 3)),
    "medium": PyramidSize(depths=(3, 4, 18, 3)),
    "large": PyramidSize(depths=(3, 8, 27, 3)),
}
PVT_V2_SIZES = {
    "b0": PyramidSize(depths=(2, 2, 2, 2), embed_dims=_NARROW),
    "b1": PyramidSize(depths=(2, 2, 2, 2)),
    "b2": PyramidSize(depths=(3, 4, 6, 3)),
    "b2_li": PyramidSize(depths=(3, 4, 6, 3)),
    "b3": PyramidSize(depths=(3, 4, 18, 3)),
    "b4": PyramidSize(depths=(3, 8, 27, 3)),
    "b5": PyramidSize(depths=(3, 6, 40, 3), mlp_ratios=_FOURFOLD),
}
# The one size of linear attention; its table row is that of b2.
LINEAR_SIZES = frozenset({"b2_li"})
MIT_SIZES = {
    "b0": PyramidSize(depths=(2, 2, 2, 2), embed_dims=_NARROW, mlp_ratios=_FOURFOLD),
    "b1": PyramidSize(depths=(2, 2, 2, 2), mlp_ratios=_FOURFOLD),
    "b2": PyramidSize(depths=(3, 4, 6, 3), mlp_ratios=_FOURFOLD),
    "b3": PyramidSize(depths=(3, 4, 18, 3), mlp_ratios=_FOURFOLD),
    "b4": PyramidSize(depths=(3, 8, 27, 3), mlp_ratios=_FOURFOLD),
    "b5": PyramidSize(depths=(3, 6, 40, 3), mlp_ratios=_FOURFOLD),
}


def pvt_arguments(size: str) -> dict[str, list[int]]:
    """Return the arguments of `PVT` for one of its sizes.

    Args:
        size: ``"tiny"``, ``"small"``, ``"medium"`` or ``"large"``.

    Returns:
        ``embed_dims``, ``depths``, ``num_heads``, ``mlp_ratios`` and ``sr_ratios``.

    Raises:
        ValueError: the table has no such name.
    """
    return _find(PVT_SIZES, size).arguments()


def pvt_v2_arguments(size: str) -> dict[str, list[int] | bool]:
    """Return the arguments of `PVTv2` for one of its sizes.

    Args:
        size: ``"b0"`` to ``"b5"``, or ``"b2_li"``.

    Returns:
        ``embed_dims``, ``depths``, ``num_heads``, ``mlp_ratios``, ``sr_ratios`` and ``linear``.

    Raises:
        ValueError: the table has no such name.
    """
    return {**_find(PVT_V2_SIZES, size).arguments(), "linear": size in LINEAR_SIZES}


def mit_arguments(size: str) -> dict[str, list[int]]:
    """Return the arguments of `MiT` for one of its sizes.

    Args:
        size: ``"b0"`` to ``"b5"``.

    Returns:
        ``embed_dims``, ``depths``, ``num_heads``, ``mlp_ratios`` and ``sr_ratios``.

    Raises:
        ValueError: the table has no such name.
    """
    return _find(MIT_SIZES, size).arguments()


def _find(table: Mapping[str, PyramidSize], size: str) -> PyramidSize:
    """Return a row of a table.

    Raises:
        ValueError: the table has no such name.
    """
    if size not in table:
        raise ValueError(f"size: expected one of {', '.join(table)}, got {size!r}")
    return table[size]

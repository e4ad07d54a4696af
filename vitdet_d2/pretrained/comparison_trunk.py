# SPDX-License-Identifier: Apache-2.0
"""Swin and MViTv2, which ViTDet is compared with, told from names and shapes.

Names are those of timm below ``net.``, or those of Detectron2's classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vitdet_d2.pretrained.family import PLAIN_VIT
from vitdet_d2.pretrained.trunk import Heads, Trunk

Kind = Literal["swin", "mvitv2"]

_TITLES: dict[Kind, str] = {"swin": "Swin", "mvitv2": "MViTv2"}
# One tensor of each block, which no backbone of another kind has.
_BLOCKS: dict[Kind, re.Pattern[str]] = {
    "swin": re.compile(r"(?:^|.*\.)layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table"),
    "mvitv2": re.compile(r"(?:^|.*\.)blocks\.\d+\.attn\.pool_q\.weight"),
}
# Channels of a token of the first stage, and blocks of all stages.
# Source: Swin, arXiv 2103.14030, section 3.3; MViTv2, arXiv 2112.01526, table 1.
_SIZES: dict[Kind, dict[str, tuple[int, int]]] = {
    "swin": {"t": (96, 12), "s": (96, 24), "b": (128, 24), "l": (192, 24)},
    "mvitv2": {"t": (96, 10), "s": (96, 16), "b": (96, 24), "l": (144, 48), "h": (192, 80)},
}


@dataclass(frozen=True, kw_only=True)
class ComparisonTrunk:
    """A Swin or an MViTv2.

    Attributes:
        kind: which of them.
        width: channels of a token of the first stage.
        depth: number of blocks of all stages.
    """

    kind: Kind
    width: int
    depth: int

    def __str__(self) -> str:
        """Describe it."""
        return f"{_TITLES[self.kind]} of width {self.width}, depth {self.depth}"

    @property
    def size(self) -> str | None:
        """The size with this width and depth, if there is one."""
        found = (self.width, self.depth)
        sizes = _SIZES[self.kind].items()
        return next((f"{self.kind}_{name}" for name, size in sizes if size == found), None)

    @property
    def closest(self) -> str:
        """The size of its kind that is nearest in width, then in depth."""

        def distance(name: str) -> tuple[int, int]:
            width, depth = _SIZES[self.kind][name]
            return abs(width - self.width), abs(depth - self.depth)

        name = min(_SIZES[self.kind], key=distance)
        width, depth = _SIZES[self.kind][name]
        return f"{_TITLES[self.kind]}-{name.upper()} ({width}/{depth})"

    def fits(self, model: Trunk, *, partial: bool) -> bool:
        """Whether it has the model's width and depth.

        Args:
            model: what the recipe made.
            partial: whether another depth will do.
        """
        if not isinstance(model, ComparisonTrunk):
            return False
        same = (self.kind, self.width) == (model.kind, model.width)
        return same and (partial or self.depth == model.depth)

    def recipe_family(self, heads: Heads) -> str:
        """Return the family of recipes with such heads; the size is the backbone's whole name.

        Args:
            heads: of the detector.
        """
        kind = "mask_rcnn" if heads.masks else "faster_rcnn"
        if heads.dense:
            kind = "retinanet"
        elif heads.cascade:
            kind = "cascade" if heads.masks else "cascade_rcnn"
        return ("lvis_" if heads.dataset == "lvis" else "") + kind


def comparison_trunk(state: Mapping[str, Tensor]) -> ComparisonTrunk | None:
    """Return the Swin or MViTv2 of a state dict; None: there is none.

    Args:
        state: of a detector, or of a bare backbone.
    """
    stems = (v for name, v in state.items() if name.endswith(PLAIN_VIT.stem) and v.dim() == 4)
    stem = next(stems, None)
    if stem is None:
        return None
    for kind, block in _BLOCKS.items():
        depth = sum(block.fullmatch(name) is not None for name in state)
        if depth:
            return ComparisonTrunk(kind=kind, width=stem.shape[0], depth=depth)
    return None

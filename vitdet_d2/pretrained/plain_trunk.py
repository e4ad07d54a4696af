# SPDX-License-Identifier: Apache-2.0
"""Plain ViTs, told from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vitdet_d2.backbones.sizes import VIT_SIZES
from vitdet_d2.pretrained.family import PLAIN_VIT
from vitdet_d2.pretrained.trunk import Heads, Trunk

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class PlainTrunk:
    """A plain ViT.

    Attributes:
        width: channels of a token.
        depth: number of blocks.
        patch: side of a patch in pixels.
    """

    width: int
    depth: int
    patch: int

    def __str__(self) -> str:
        """Describe it."""
        return f"ViT of width {self.width}, depth {self.depth}, patch {self.patch}"

    @property
    def size(self) -> str | None:
        """The size with this width and depth, if there is one."""
        for name, size in VIT_SIZES.items():
            if (size.embed_dim, size.depth) == (self.width, self.depth):
                return name
        return None

    @property
    def closest(self) -> str:
        """The size nearest in width, then in depth."""

        def distance(name: str) -> tuple[int, int]:
            size = VIT_SIZES[name]
            return abs(size.embed_dim - self.width), abs(size.depth - self.depth)

        name = min(VIT_SIZES, key=distance)
        return f"ViT-{name.capitalize()} ({VIT_SIZES[name].embed_dim}/{VIT_SIZES[name].depth})"

    def fits(self, model: Trunk, *, partial: bool) -> bool:
        """Whether it has the model's width and depth; of another width no tensor fits.

        Args:
            model: what the recipe made.
            partial: whether another depth will do.
        """
        if not isinstance(model, PlainTrunk) or self.width != model.width:
            return False
        return partial or self.depth == model.depth

    def recipe_family(self, heads: Heads) -> str:
        """Return the family of recipes with such heads.

        Args:
            heads: of the detector.
        """
        kind = ("cascade_" if heads.cascade else "") if heads.masks else "faster_rcnn_"
        return ("lvis_" if heads.dataset == "lvis" else "") + kind + "vitdet"


def plain_trunk(state: Mapping[str, Tensor]) -> PlainTrunk | None:
    """Return the plain ViT of a state dict; None: there is none.

    Args:
        state: of a detector, or of a bare ViT.
    """
    stems = (n for n, v in state.items() if n.endswith(PLAIN_VIT.stem) and v.dim() == 4)
    name = next(stems, None)
    if name is None:
        return None
    blocks = [name for name in state if _BLOCK.search(name)]
    # Hierarchical backbones have such patches, and their blocks in stages.
    place = f"{name.removesuffix(PLAIN_VIT.stem)}blocks."
    if blocks and not any(block.startswith(place) for block in blocks):
        return None
    depth = len({number for block in blocks for number in _BLOCK.findall(block)})
    return PlainTrunk(width=state[name].shape[0], depth=depth, patch=state[name].shape[-1])

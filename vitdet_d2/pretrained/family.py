# SPDX-License-Identifier: Apache-2.0
"""Families of encoders: all of one family have one set of names, whatever trained them.

What a family's weights need on their way into a model stands in ``place_*.py``, into a file in
``convert_*.py``; each is looked up in one table there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """The names of a family, as our backbones have them.

    Attributes:
        title: what an encoder of it is.
        stem: the first kernel; its name tells where an encoder begins.
        first_block: what the names of the first block begin with.
        takers: the backbones that take one, for messages.
        recipe_prefix: where recipes keep the options of such a backbone.
        axes: patterns of names with the number of their axes; all others have one.
    """

    title: str
    stem: str
    first_block: str
    takers: str
    recipe_prefix: str
    axes: tuple[tuple[re.Pattern[str], int], ...]

    def prefix_in(self, names: Collection[str]) -> str | None:
        """Return what stands before the names of the one such encoder in a model; None: no one.

        Args:
            names: of the model's state dict.
        """
        found = [
            prefix
            for prefix in (name.removesuffix(self.stem) for name in names if _ends(name, self.stem))
            if any(name.startswith(prefix + self.first_block) for name in names)
        ]
        return found[0] if len(found) == 1 else None


def _ends(name: str, stem: str) -> bool:
    return name == stem or name.endswith(f".{stem}")


PLAIN_VIT = Family(
    title="a plain ViT",
    stem="patch_embed.proj.weight",
    first_block="blocks.0.",
    takers="ViT",
    recipe_prefix="model.backbone.net.",
    axes=(
        (re.compile(r"pos_embed"), 3),
        (re.compile(r"patch_embed\.proj\.weight|.*\.residual\.conv\d\.weight"), 4),
        (re.compile(r".*\.(qkv|proj|fc1|fc2|w1|w2|w3)\.weight"), 2),
        (re.compile(r".*\.rel_pos_[hw]|.*relative_position_bias_table|rel_pos_bias_\w+"), 2),
    ),
)
PYRAMID = Family(
    title="a pyramid transformer",
    stem="patch_embed1.proj.weight",
    first_block="block1.0.",
    takers="PVT, PVTv2 or MiT",
    recipe_prefix="model.backbone.bottom_up.",
    axes=(
        (re.compile(r"pos_embed\d"), 3),
        (re.compile(r"patch_embed\d\.proj\.weight|.*\.(sr|dwconv)\.weight"), 4),
        (re.compile(r".*\.(q|kv|proj|fc1|fc2)\.weight"), 2),
    ),
)
FAMILIES = (PLAIN_VIT, PYRAMID)


def family_in(names: Collection[str]) -> tuple[Family, str] | None:
    """Return the family of the one encoder in a model, and what stands before its names.

    Args:
        names: of the model's state dict.
    """
    found = [(family, family.prefix_in(names)) for family in FAMILIES]
    known = [(family, prefix) for family, prefix in found if prefix is not None]
    return known[0] if len(known) == 1 else None

# SPDX-License-Identifier: Apache-2.0
"""Pyramid transformers (PVT v1, PVT v2, MiT), told from names and shapes.

What is per stage is a tuple; a model may have its first stages alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from vitdet_d2.backbones.pvt_sizes import (
    LINEAR_SIZES,
    MIT_SIZES,
    PVT_SIZES,
    PVT_V2_SIZES,
    PyramidSize,
)
from vitdet_d2.pretrained.family import PYRAMID
from vitdet_d2.pretrained.trunk import Heads, Trunk

NUM_STAGES = 4

_BLOCK = re.compile(r"block(\d)\.(\d{1,4})\.")


@dataclass(frozen=True, kw_only=True)
class PyramidTrunk:
    """A pyramid transformer.

    Attributes:
        overlapping: patches overlap, and perceptrons have a depth-wise convolution (PVT v2, MiT).
        widths: channels of a token.
        depths: numbers of blocks.
        hidden: channels within the perceptrons of the first blocks.
        reductions: sides of the kernels that reduce keys and values; 0: there is none. All of them
            1: attention is linear.
    """

    overlapping: bool
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    hidden: tuple[int, ...]
    reductions: tuple[int, ...]

    @property
    def is_linear(self) -> bool:
        """Whether keys and values are pooled to one size in every stage."""
        return set(self.reductions) == {1}

    @property
    def mlp_ratios(self) -> tuple[float, ...]:
        """Hidden channels of the perceptrons, in multiples of the widths."""
        ratios = [h / max(w, 1) for h, w in zip(self.hidden, self.widths, strict=True)]
        return tuple(int(ratio) if ratio.is_integer() else ratio for ratio in ratios)

    def __str__(self) -> str:
        """Describe it."""
        kind = "PVT v2 or MiT" if self.overlapping else "PVT"
        reductions = "linear" if self.is_linear else _shown(max(r, 1) for r in self.reductions)
        return (
            f"{kind} of widths {_shown(self.widths)}, depths {_shown(self.depths)}, MLP ratios "
            f"{_shown(f'{ratio:g}' for ratio in self.mlp_ratios)}, reductions {reductions}"
        )

    @property
    def size(self) -> str | None:
        """The size with all these numbers, if there is one; PVT v2-b5 is MiT-b5, too."""
        return next((name for name, trunk in _known() if trunk == self), None)

    @property
    def closest(self) -> str:
        """The size of its kind that is nearest in width, then in depth, then in perceptrons."""

        def distance(trunk: PyramidTrunk) -> tuple[int, ...]:
            fields = ("widths", "depths", "hidden", "reductions")
            return tuple(_distance(getattr(trunk, f), getattr(self, f)) for f in fields)

        known = [row for row in _known() if row[1].overlapping == self.overlapping]
        return min(known, key=lambda row: distance(row[1]))[0]

    def fits(self, model: Trunk, *, partial: bool) -> bool:
        """Whether it has the model's stages, or begins with them.

        Args:
            model: what the recipe made.
            partial: whether another depth will do.
        """
        if not isinstance(model, PyramidTrunk):
            return False
        count = len(model.widths)
        fields = ["widths", "hidden", "reductions", *([] if partial else ["depths"])]
        same = all(getattr(self, name)[:count] == getattr(model, name) for name in fields)
        return same and self.overlapping == model.overlapping

    def recipe_family(self, heads: Heads) -> str:
        """Return the family of recipes with such heads; the size is the backbone's whole name.

        Args:
            heads: of the detector.
        """
        kind = "mask_rcnn" if heads.masks else "faster_rcnn"
        if heads.dense:
            kind = "retinanet"
        elif heads.cascade:
            kind = f"cascade_{kind}"
        return ("lvis_" if heads.dataset == "lvis" else "") + kind


def pyramid_trunk(state: Mapping[str, Tensor]) -> PyramidTrunk | None:
    """Return the pyramid transformer of a state dict; None: there is none.

    Args:
        state: of a detector, or of a bare backbone.
    """
    prefix = PYRAMID.prefix_in(state)
    if prefix is None:
        return None
    names = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    stages = [s for s in range(1, NUM_STAGES + 1) if f"patch_embed{s}.proj.weight" in names]
    blocks = {found.groups() for name in names if (found := _BLOCK.match(name))}

    def rows(name: str) -> int:
        return names[name].shape[0] if name in names and names[name].dim() else 0

    def side(name: str) -> int:
        return names[name].shape[-1] if name in names and names[name].dim() == 4 else 0

    return PyramidTrunk(
        overlapping=any(".mlp.dwconv." in name for name in names),
        widths=tuple(rows(f"patch_embed{s}.proj.weight") for s in stages),
        depths=tuple(sum(stage == str(s) for stage, _ in blocks) for s in stages),
        hidden=tuple(rows(f"block{s}.0.mlp.fc1.weight") for s in stages),
        reductions=tuple(side(f"block{s}.0.attn.sr.weight") for s in stages),
    )


def known_heads(trunk: PyramidTrunk) -> tuple[int | None, ...]:
    """Return the attention heads of each stage, which no tensor shows; None: not known.

    Args:
        trunk: whose widths tell them.
    """
    sizes = (*PVT_SIZES.values(), *PVT_V2_SIZES.values(), *MIT_SIZES.values())
    heads = {
        (stage, width): number
        for size in sizes
        for stage, (width, number) in enumerate(zip(size.embed_dims, size.num_heads, strict=True))
    }
    return tuple(heads.get(place) for place in enumerate(trunk.widths))


@cache
def _known() -> tuple[tuple[str, PyramidTrunk], ...]:
    """Return every size, by the name that recipes and initialisations have for it."""
    return (
        *((f"pvt_{name}", _of_size(size, overlapping=False)) for name, size in PVT_SIZES.items()),
        *(
            (f"pvt_v2_{name}", _of_size(size, overlapping=True, linear=name in LINEAR_SIZES))
            for name, size in PVT_V2_SIZES.items()
        ),
        *((f"mit_{name}", _of_size(size, overlapping=True)) for name, size in MIT_SIZES.items()),
    )


def _of_size(size: PyramidSize, *, overlapping: bool, linear: bool = False) -> PyramidTrunk:
    return PyramidTrunk(
        overlapping=overlapping,
        widths=size.embed_dims,
        depths=size.depths,
        hidden=tuple(r * w for r, w in zip(size.mlp_ratios, size.embed_dims, strict=True)),
        reductions=tuple(1 if linear else (r if r > 1 else 0) for r in size.sr_ratios),
    )


def _distance(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    return sum(abs(a - b) for a, b in zip(first, second, strict=False))


def _shown(values: Iterable[object]) -> str:
    return "/".join(map(str, values))

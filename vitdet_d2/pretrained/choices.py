# SPDX-License-Identifier: Apache-2.0
"""How weights are loaded: what a user may choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vitdet_d2.errors import RecipeError
from vitdet_d2.pretrained.patch_kernel import PatchResize
from vitdet_d2.pretrained.recognise import named_source

LayerScale = Literal["auto", "keep", "fold"]
AbsentPositions = Literal["zeros", "random"]
Statistics = Literal["source", "recipe"]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The arguments of `vitdet_d2.pretrained.load` that say how; they are explained there."""

    source: str | None
    layer_scale: LayerScale
    patch_resize: PatchResize
    position_grid: tuple[int, int] | None
    absent_positions: AbsentPositions
    allow_partial: bool
    normalisation: Statistics
    strict_heads: bool

    def __post_init__(self) -> None:
        """Refuse unknown values.

        Raises:
            RecipeError: there is one.
        """
        if self.source is not None:
            named_source(self.source)
        for name, kind in (
            ("layer_scale", LayerScale), ("patch_resize", PatchResize),
            ("absent_positions", AbsentPositions), ("normalisation", Statistics),
        ):  # fmt: skip
            value = getattr(self, name)
            if value not in get_args(kind):
                raise RecipeError(
                    f"{name}: expected one of {', '.join(get_args(kind))}, got {value!r}"
                )

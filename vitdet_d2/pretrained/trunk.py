# SPDX-License-Identifier: Apache-2.0
"""The backbone that a state dict is of, told from names and shapes alone.

Vocabulary: size: a row of our tables of sizes; family of recipes: their name without the size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vitdet_d2.pretrained.report import Shape

Difference = tuple[str, Shape, Shape]


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of a detector.

    Attributes:
        num_classes: categories that they tell apart.
        dataset: that has so many, ``coco`` or ``lvis``, if it is one of them.
        cascade: the box head has stages.
        masks: there is a mask head.
        dense: there are no regions, but RetinaNet's head.
    """

    num_classes: int
    dataset: str | None
    cascade: bool = False
    masks: bool = False
    dense: bool = False


class Trunk(Protocol):
    """A backbone whose sizes we know; values are equal where all that is seen is."""

    def __str__(self) -> str:
        """Describe it."""

    @property
    def size(self) -> str | None:
        """How recipes name its size; None: it is of no size that we know."""

    @property
    def closest(self) -> str:
        """Name the size that is nearest, for messages."""

    def fits(self, model: Trunk, *, partial: bool) -> bool:
        """Whether weights of this one can go into a model.

        Args:
            model: what the recipe made.
            partial: whether another depth will do.
        """

    def recipe_family(self, heads: Heads) -> str:
        """Return the family of recipes with such heads, whether there is one or not.

        Args:
            heads: of the detector.
        """

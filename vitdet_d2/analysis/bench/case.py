# SPDX-License-Identifier: Apache-2.0
"""What is measured: a case, the sides that run it, and what a side offers for it.

Vocabulary:
    case: one kind of work in one size, a row of the report.
    side: who does it. ``ours``: this project; ``shipped``: Detectron2 with the settings of its own
        recipes; ``tuned``: Detectron2 in our precision, with ground truth as bitmaps.
    turn: some runs of one side, after which it is another side's turn.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

Axis = Literal["training", "inference", "backbone", "loader", "masks", "evaluation", "syncs"]
Side = Literal["ours", "shipped", "tuned"]
Precision = Literal["fp32", "bf16"]
AXES: tuple[Axis, ...] = (
    "training", "inference", "backbone", "loader", "masks", "evaluation", "syncs",
)  # fmt: skip
SIDES: tuple[Side, ...] = ("ours", "shipped", "tuned")
# Axes on which Detectron2 has nothing to tune: neither precision nor ground truth matters.
UNTUNED: tuple[Axis, ...] = ("loader", "masks", "evaluation")
# Evidence by which outputs of all sides are compared: names, and numbers or texts.
Evidence = dict[str, Tensor | str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A row of the report.

    Attributes:
        axis: the kind of work.
        model: recipe whose model runs; of axes without a model, whose data settings count.
        overrides: changes of the recipe, for all sides.
        own_overrides: further changes on our side, of keys that Detectron2 does not have.
        image_size: side of the square images, in pixels.
        batch: images of a run.
        precision: what our side and the tuned one compute in.
        device: as torch names it.
        num_objects: in every image of training.
        data: folder of a data set in COCO's layout; None: images and objects are made up.
        mode: "fast" or "exact", of axes that have both; else empty.
        weights: checkpoint that all sides load; None: random weights, the same on all sides.
    """

    axis: Axis
    model: str = "vitdet_b"
    overrides: tuple[str, ...] = ()
    own_overrides: tuple[str, ...] = ()
    image_size: int = 1024
    batch: int = 1
    precision: Precision = "fp32"
    device: str = "cpu"
    num_objects: int = 7
    data: str | None = None
    mode: str = ""
    weights: str | None = None

    @property
    def title(self) -> str:
        """The row's first words."""
        words = [self.axis, self.mode]
        if self.axis in ("training", "inference", "backbone", "syncs"):
            words.append(f"{self.model} {self.image_size} px")
        if self.axis in ("training", "inference", "backbone"):
            plural = "s" if self.batch > 1 else ""
            words += [f"{self.batch} image{plural}", self.precision]
        return " ".join(word for word in [*words, f"({self.device})"] if word)

    @property
    def sides(self) -> tuple[Side, ...]:
        """Who runs it: the tuned side only where it differs from the shipped one."""
        same = self.axis in UNTUNED or (
            self.axis in ("inference", "backbone") and self.precision == "fp32"
        )
        return ("ours", "shipped") if same else SIDES

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Read what `to_json` wrote.

        Args:
            text: of `to_json`.
        """
        values = json.loads(text)
        for name in ("overrides", "own_overrides"):
            values[name] = tuple(values[name])
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What a side offers for a case, ready to run.

    Attributes:
        run: the timed work; called any number of times, always the same work.
        units: images that one run deals with.
        evidence: what is compared with the other sides, computed when it is asked for.
        count: numbers that need no clock, such as host synchronisations, when asked for.
    """

    run: Callable[[], object]
    units: int
    evidence: Callable[[], Evidence]
    count: Callable[[], Mapping[str, float]] = dict

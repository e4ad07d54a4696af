# SPDX-License-Identifier: Apache-2.0
"""What became of every tensor of a weights file, and of every tensor of the model."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

Shape = tuple[int, ...]

# Of Detectron2's predictors that were trained with the federated loss.
CLASS_WEIGHTS = "fed_loss_cls_weights"
_RELATIVE_POSITIONS = re.compile(r"\.rel_pos_[hw]$")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """The result of loading weights into a model; names are those of the model's state dict.

    Attributes:
        source: the file or address.
        kind: ``encoder``, the weights of a bare ViT, or ``detector``, a whole model.
        loaded: tensors that were loaded.
        initialised: tensors that no such file has, and that stay as the model made them.
        missing: tensors of the backbone that the file should have; they stay as they are too.
        mismatched: tensors that stay as they are, as the file's shape differs: name, shape in the
            file, shape in the model.
        resized: tensors that were resized to the model's shape: name, old shape, new shape.
        unexpected: names in the file that the model has not.
        dropped: names in the file that are of no use, on purpose.
        classes: number of classes of the file and of the model, where they differ.
        thing_classes: class names that the file carries.
    """

    source: str
    kind: Literal["encoder", "detector"]
    loaded: tuple[str, ...]
    initialised: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, Shape, Shape], ...] = ()
    resized: tuple[tuple[str, Shape, Shape], ...] = ()
    unexpected: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    classes: tuple[int, int] | None = None
    thing_classes: tuple[str, ...] | None = None

    def lines(self) -> list[str]:
        """Return what was done, one fact per line; all of it is expected."""
        lines = [f"{self.source}: {len(self.loaded)} tensors loaded ({self.kind})"]
        lines += [
            f"resized {name}: {old} -> {new} (expected: the input sizes differ)"
            for name, old, new in self.resized
        ]
        if self.classes is not None:
            lines.append(
                f"the file has {self.classes[0]} classes, the model {self.classes[1]}: "
                "the class layers start anew (expected when fine-tuning)"
            )
        stays = [*self.initialised, *(name for name, _, _ in self.mismatched)]
        if stays:
            lines.append(f"newly initialised: {summarise(stays)}")
        if self.dropped:
            lines.append(f"of no use for detection: {summarise(self.dropped)}")
        return lines

    def warnings(self) -> list[str]:
        """Return what a user should look at, one fact per line."""
        lines = []
        if self.missing:
            lines.append(f"{self.source}: not in the file: {', '.join(self.missing)}")
        if self.unexpected:
            lines.append(f"{self.source}: not in the model: {summarise(self.unexpected)}")
        return lines


def summarise(names: list[str] | tuple[str, ...]) -> str:
    """Name the parts of a model that tensors belong to, with their number."""
    parts = Counter(_part(name) for name in names)
    return ", ".join(f"{part} ({count})" for part, count in parts.items())


def _part(name: str) -> str:
    if _RELATIVE_POSITIONS.search(name):
        return "relative-position tables"
    if name.endswith(CLASS_WEIGHTS):
        return "class weights of the federated loss"
    if ".residual." in name:
        return "convolutional blocks"
    parts = name.split(".")
    # "backbone.simfp_2.0.weight" -> "backbone.simfp_2", "proposal_generator.rpn_head.x" -> itself
    return ".".join(parts[: 2 if len(parts) > 2 else 1])

# SPDX-License-Identifier: Apache-2.0
"""What became of every tensor of a weights file, and of every tensor of the model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Shape = tuple[int, ...]

# Of Detectron2's predictors that were trained with the federated loss.
CLASS_WEIGHTS = "fed_loss_cls_weights"
# Parts of a ViT that many blocks have, and a report names once.
_PARTS = (
    (re.compile(r"\.rel_pos_[hw]$"), "relative-position tables"),
    (re.compile(rf"{CLASS_WEIGHTS}$"), "class weights of the federated loss"),
    (re.compile(r"\.residual\."), "convolutional blocks"),
    (re.compile(r"relative_position_bias_table$|rel_pos_bias_"), "relative-position biases"),
    (re.compile(r"\.(gamma|lambda)_?\w*$|lambda1$"), "LayerScale"),
    (re.compile(r"qkv\.bias$"), "biases of queries, keys and values"),
)


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """The result of loading weights into a model; names are those of the model's state dict.

    Attributes:
        source: the file, address or name.
        kind: ``encoder``, the weights of a bare ViT, or ``detector``, a whole model.
        origin: what they are: ``MAE``, ``BEiT``, ``a detector``.
        how: in what way that was recognised.
        loaded: tensors that were loaded.
        supplied: number of the backbone's tensors that came from the file, and of those that a
            file of this origin can supply.
        folded: tensors of the file that are within other tensors now.
        zeros: tensors that were set to zero, as the file's encoder works without them.
        ones: tensors that were set to one, for the same reason.
        initialised: tensors that no such file has, and that stay as the model made them.
        missing: tensors of the backbone that the file should have; they stay as they are too.
        mismatched: tensors that stay as they are, as the file's shape differs: name, shape in the
            file, shape in the model.
        resized: tensors that were resized to the model's shape: name, old shape, new shape.
        unexpected: names in the file that the model has not.
        dropped: names in the file that are of no use, on purpose.
        classes: number of classes of the file and of the model, where they differ.
        thing_classes: class names that the file carries.
        wrappers: keys and prefixes below which the weights were, outermost first.
        unused: keys of other weights in the file, which were not looked at.
        notes: what the user should know.
        alerts: what the user should look at.
    """

    source: str
    kind: Literal["encoder", "detector"]
    origin: str
    how: str
    loaded: tuple[str, ...]
    supplied: tuple[int, int]
    folded: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    ones: tuple[str, ...] = ()
    initialised: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, Shape, Shape], ...] = ()
    resized: tuple[tuple[str, Shape, Shape], ...] = ()
    unexpected: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    classes: tuple[int, int] | None = None
    thing_classes: tuple[str, ...] | None = None
    wrappers: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Whether the backbone got all that it can get."""
        count, total = self.supplied
        if total == 0:
            return "nothing is loaded: the model starts at random"
        if count == total:
            return f"all that {self.origin} supplies: {count} of {total}"
        return f"only {count} of the {total} tensors that {self.origin} supplies"

    def lines(self) -> list[str]:
        """Return what was done, one fact per line; all of it is expected."""
        lines = [f"{self.source}: {self.origin}, {self.how}"]
        lines.append(f"verdict: {self.verdict}; {len(self.loaded)} tensors loaded ({self.kind})")
        if self.folded:
            lines.append(f"folded into the layers before: {summarise(self.folded)}")
        lines += _resized_lines(self.resized)
        if self.zeros:
            lines.append(f"zero, as in pre-training: {summarise(self.zeros)}")
        if self.ones:
            lines.append(f"one, as pre-training had none: {summarise(self.ones)}")
        if self.classes is not None:
            lines.append(
                f"the file has {self.classes[0]} classes, the model {self.classes[1]}: "
                "the class layers start anew (expected when fine-tuning)"
            )
        stays = [*self.initialised, *(name for name, _, _ in self.mismatched)]
        if stays:
            lines.append(f"newly initialised: {summarise(stays)} (expected)")
        if self.dropped:
            lines.append(f"of no use for detection: {_summarise_file(self.dropped)}")
        if self.unused:
            lines.append(
                f"taken are the weights below {' '.join(map(repr, self.wrappers))}; the file has "
                f"others below {', '.join(map(repr, self.unused))}"
            )
        return [*lines, *self.notes]

    def warnings(self) -> list[str]:
        """Return what a user should look at, one fact per line."""
        lines = [f"{self.source}: {alert}" for alert in self.alerts]
        count, total = self.supplied
        if count < total:
            lines.append(f"{self.source}: {self.verdict}")
        if self.missing:
            lines.append(f"{self.source}: not in the file: {', '.join(self.missing)}")
        if self.unexpected:
            lines.append(f"{self.source}: not in the model: {summarise(self.unexpected)}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in plain types, for JSON."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}


def summarise(names: Sequence[str]) -> str:
    """Name the parts of a model that tensors belong to, with their number."""
    return _count(names, _part)


def _summarise_file(names: Sequence[str]) -> str:
    """Name the parts of a file that tensors belong to, which has names of its own."""
    return _count(names, _file_part)


def _count(names: Sequence[str], part_of: Callable[[str], str]) -> str:
    """Name each part once, with the number of its tensors; what is a single one by its name."""
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(part_of(name), []).append(name)
    return ", ".join(
        found[0] if len(found) == 1 and found[0].startswith(part) else f"{part} ({len(found)})"
        for part, found in parts.items()
    )


def _resized_lines(resized: Sequence[tuple[str, Shape, Shape]]) -> list[str]:
    """Return a line per change; tensors of several blocks share one."""
    names: dict[tuple[str, Shape, Shape], list[str]] = {}
    for name, old, new in resized:
        names.setdefault((_part(name), old, new), []).append(name)
    return [
        f"resized {found[0] if len(found) == 1 else f'{part} ({len(found)})'}: {old} -> {new} "
        "(expected: sizes or prefix tokens differ)"
        for (part, old, new), found in names.items()
    ]


def _file_part(name: str) -> str:
    """Return what stands for all blocks of a kind: ``decoder_blocks``, ``blocks.N.attn.index``."""
    if name.endswith(CLASS_WEIGHTS):
        return _part(name)
    first, _, rest = name.partition(".")
    return f"{first}.N.{rest.partition('.')[2]}" if first == "blocks" else first


def _part(name: str) -> str:
    for pattern, part in _PARTS:
        if pattern.search(name):
            return part
    parts = name.split(".")
    # "backbone.simfp_2.0.weight" -> "backbone.simfp_2", "proposal_generator.rpn_head.x" -> itself
    return ".".join(parts[: 2 if len(parts) > 2 else 1])

# SPDX-License-Identifier: Apache-2.0
"""Weights of a whole detector, by the names of the model's own state dict.

They go into a detector, or, without their heads, into a bare backbone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from vitdet_d2.pretrained.positions import (
    Interpolation,
    can_resize_positions,
    resize_positions,
)
from vitdet_d2.pretrained.relative_tables import fit_table
from vitdet_d2.pretrained.report import CLASS_WEIGHTS, Shape

# Rebuilt from the recipe; some files carry them. The weights of the federated loss are of use in
# training only, and a model that was built for inference has none.
REBUILT = re.compile(
    rf"pixel_mean|pixel_std|.*anchor_generator\.cell_anchors.*|.*\.{CLASS_WEIGHTS}"
)
_CONVOLUTIONAL_BLOCK = re.compile(r"\.residual\.")
# Before the names of a backbone in a detector, and of an encoder in a backbone; its own first.
_BACKBONES = ("backbone.net.", "backbone.bottom_up.", "backbone.", "net.", "bottom_up.")
# Of a plain ViT, or of a stage of a pyramid transformer, which resizes them in another way.
_POSITIONS = re.compile(r"(?:^|\.)pos_embed(?P<stage>\d?)$")


@dataclass(kw_only=True)
class Matched:
    """What became of every tensor of the file, and of the model.

    Attributes:
        tensors: by the model's names; what is to be loaded.
        backbone: names of the model that the file must cover.
        resized: name, shape in the file, shape in the model.
        mismatched: likewise, of what is not loaded.
        unexpected: names of the file that the model has not.
        dropped: names of the file that are of no use to the model.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    backbone: set[str] = field(default_factory=set)
    resized: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    mismatched: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def place(self, name: str, value: Tensor, model: Mapping[str, Tensor]) -> None:
        """Take one tensor of the file for the model's tensor of this name."""
        wanted, found = tuple(model[name].shape), tuple(value.shape)
        positions = _POSITIONS.search(name) if found != wanted else None
        if positions and can_resize_positions(found, wanted):
            mode: Interpolation = "bilinear" if positions["stage"] else "bicubic"
            value = resize_positions(value, wanted[1], mode)
        else:
            value = fit_table(name, value, wanted)
        if tuple(value.shape) != wanted:
            self.mismatched.append((name, found, wanted))
            return
        if found != wanted:
            self.resized.append((name, found, wanted))
        self.tensors[name] = value

    def absent(self, model: Mapping[str, Tensor]) -> list[str]:
        """Return the names of the model that the file has nothing for."""
        touched = {*self.tensors, *(name for name, _, _ in self.mismatched)}
        return [name for name in model if name not in touched and not REBUILT.fullmatch(name)]


def match(model: Mapping[str, Tensor], file: Mapping[str, Tensor]) -> Matched:
    """Compare a file with a model.

    Args:
        model: its state dict.
        file: a detector's, or the state dict of a model like this one.
    """
    matched = Matched()
    if not any(name in model for name in file):
        file = _placed(model, file, matched.dropped)
    backbone = {name for name in model if name.startswith("backbone.")} or set(model)
    if not any(_CONVOLUTIONAL_BLOCK.search(name) for name in file):
        backbone = {name for name in backbone if not _CONVOLUTIONAL_BLOCK.search(name)}
    matched.backbone = backbone
    for name, value in file.items():
        if name in model and not _is_other_class_weights(name, value, model[name]):
            matched.place(name, value, model)
        elif REBUILT.fullmatch(name):
            matched.dropped.append(name)
        else:
            matched.unexpected.append(name)
    return matched


def _placed(
    model: Mapping[str, Tensor], file: Mapping[str, Tensor], dropped: list[str]
) -> Mapping[str, Tensor]:
    """Return what a bare backbone takes of a detector, or a detector of a backbone with its neck.

    Where there is nothing, the file is returned as it is.
    """
    below = {f"backbone.{name}": value for name, value in file.items()}
    if any(name in model for name in below):
        return below
    for prefix in _BACKBONES:
        part = {n.removeprefix(prefix): v for n, v in file.items() if n.startswith(prefix)}
        if any(name in model for name in part):
            dropped += [name for name in file if not name.startswith(prefix)]
            return part
    return file


def _is_other_class_weights(name: str, value: Tensor, wanted: Tensor) -> bool:
    return name.endswith(CLASS_WEIGHTS) and value.shape != wanted.shape

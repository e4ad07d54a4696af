# SPDX-License-Identifier: Apache-2.0
"""What became of every tensor of an encoder, and of the backbone that it was fitted to."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from vitdet_d2.pretrained.report import Shape


@dataclass(kw_only=True)
class Fitted:
    """Tensors for a backbone, and what became of every other one.

    Attributes:
        tensors: by the backbone's names; what is to be loaded.
        folded: names of the encoder that are now within other tensors.
        resized: name, shape in the file, shape in the model.
        zeros: names that are zero, as the file's encoder works without them.
        ones: names that are one, for the same reason.
        new: names of the model that files of this source cannot supply.
        missing: names of the model that the file should supply.
        mismatched: name, shape in the file, shape in the model.
        unexpected: names of the encoder that the model has not.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)
    resized: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    zeros: list[str] = field(default_factory=list)
    ones: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def from_file(self) -> list[str]:
        """Names of what the file gave, without the zeros and ones."""
        neutral = {*self.zeros, *self.ones}
        return [name for name in self.tensors if name not in neutral]

# SPDX-License-Identifier: Apache-2.0
"""What is known of one source of pre-trained encoders.

A source is its key table and the few facts that no tensor carries. ``sources/`` has one file per
source; all names are those after `container.unwrap`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.family import PLAIN_VIT, Family
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import Normalisation

Activation = Literal["gelu", "quick_gelu", "gelu_tanh"]
Rotary = Literal["half", "interleaved"]

# Attention heads by width, where a source says nothing else: DeiT's, ViT's and DINOv2's sizes.
COMMON_HEADS: Mapping[int, int] = {
    192: 3,
    384: 6,
    512: 8,
    768: 12,
    1024: 16,
    1280: 16,
    1408: 16,
    1536: 24,
    4096: 32,
}


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an encoder was trained with and no tensor shows.

    Attributes:
        act: activation of the perceptrons.
        eps: of the layer norms.
        rope: kind of rotary positions.
    """

    act: Activation = "gelu"
    eps: float = 1e-6
    rope: Rotary | None = None


def no_needs(file: Unwrapped) -> Needs:  # noqa: ARG001
    """Return what nearly all were trained with."""
    return Needs()


def _class_token(file: Unwrapped) -> int:
    return int("cls_token" in file.state)


def _as_they_are(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return state


def _no_reason(file: Unwrapped) -> str | None:  # noqa: ARG001
    return None


def _no_notes(file: Unwrapped) -> tuple[str, ...]:  # noqa: ARG001
    return ()


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source, or one layout of several.

    Attributes:
        name: by which users name it.
        title: in reports.
        matches: whether a file is of this source, by its keys and shapes.
        table: our name for every key; a function where files of this source differ.
        beside: patterns of keys beside the encoder, which are dropped.
        normalisation: of the images in pre-training, or a function of the file; None: files of
            this layout come from several sources, and the keys cannot tell which.
        num_prefix: rows of the position embedding before those of the patches.
        needs: what the encoder was trained with.
        heads: attention heads by width; other widths are not checked.
        refuse: why a file of this source cannot be used, None if it can.
        notes: what the user should know, a line each.
        prepare: takes apart tensors that hold several of the table's.
        patch_is_final: why the patch kernel must not be resized, None if it may.
        evidence: by what a file shows that it is of this source.
        family: of its encoders.
        origins: names of sources whose weights come in this layout, too: a user who names one is
            believed, and other names are errors.
    """

    name: str
    title: str
    matches: Callable[[Unwrapped], bool]
    table: KeyTable | Callable[[Unwrapped], KeyTable]
    beside: tuple[str, ...] = ()
    normalisation: Normalisation | Callable[[Unwrapped], Normalisation | None] | None = None
    num_prefix: Callable[[Unwrapped], int] = _class_token
    needs: Callable[[Unwrapped], Needs] = no_needs
    heads: Mapping[int, int] | Callable[[Unwrapped], Mapping[int, int]] = field(
        default_factory=lambda: COMMON_HEADS
    )
    refuse: Callable[[Unwrapped], str | None] = _no_reason
    notes: Callable[[Unwrapped], tuple[str, ...]] = _no_notes
    prepare: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = _as_they_are
    patch_is_final: Callable[[Unwrapped], str | None] = _no_reason
    evidence: str = "its keys"
    family: Family = PLAIN_VIT
    origins: tuple[str, ...] = ()

    def table_of(self, file: Unwrapped) -> KeyTable:
        """Return the key table for a file."""
        return self.table(file) if callable(self.table) else self.table

    def normalisation_of(self, file: Unwrapped) -> Normalisation | None:
        """Return the statistics of a file's images; None: the keys cannot tell."""
        return self.normalisation(file) if callable(self.normalisation) else self.normalisation

    def heads_of(self, file: Unwrapped) -> Mapping[int, int]:
        """Return the attention heads by width."""
        return self.heads(file) if callable(self.heads) else self.heads

# SPDX-License-Identifier: Apache-2.0
"""Weights in one of the layouts that we write.

Vocabulary:
    layout: ``vitdet``: the names of a bare backbone of ours; ``detectron2``: those of its ViT in a
        detector, where LayerScale is folded and every layer has its bias. A whole detector keeps
        its names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from vitdet_d2.pretrained.patch_kernel import PatchResize

Layout = Literal["vitdet", "detectron2"]


@dataclass(frozen=True, kw_only=True)
class How:
    """The arguments of `convert` that say how; they are explained there."""

    to: Layout
    layer_scale: Literal["keep", "fold"]
    patch_size: int | None
    patch_resize: PatchResize


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Weights in one of the layouts, ready to be written by `write_weights`.

    Attributes:
        to: the layout.
        kind: a bare ``encoder``, or a whole ``detector``.
        tensors: by name.
        entry: what the tensors do not say; see `entry`.
        origin: what the weights are.
        how: how that was recognised.
        folded: number of factors of LayerScale that are within other tensors now.
        dropped: names that are left out.
        notes: what the user should know, a line each.
        backbone: name of the class that takes them; None: a detector, which its recipe builds.
        options: its arguments, of ours or of Detectron2's.
    """

    to: Layout
    kind: Literal["encoder", "detector"]
    tensors: dict[str, Tensor]
    entry: dict[str, Any]
    origin: str
    how: str
    folded: int
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    backbone: str | None = None
    options: dict[str, Any] | None = None

    @property
    def vit_options(self) -> dict[str, Any] | None:
        """Arguments of the ViT that takes them; None: it is another backbone, or a detector."""
        return self.options if self.backbone == "ViT" else None

# SPDX-License-Identifier: Apache-2.0
"""The names of a file, as a detector with a model of timm has them.

Vocabulary:
    layout: whose names the backbone's tensors have: ``ours`` (those of `TimmBackbone`), ``timm``,
        or ``detectron2``, which are those of the official classification models too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import timm
import torch
from torch import Tensor, nn

from vitdet_d2.backbones import TimmBackbone
from vitdet_d2.pretrained.key_table import KeyTable, rename
from vitdet_d2.pretrained.timm_tables import detectron2_table

Layout = Literal["ours", "timm", "detectron2"]
TITLES: dict[Layout, str] = {
    "ours": "a backbone of timm",
    "timm": "timm",
    "detectron2": "Swin or MViTv2, as Detectron2 and their authors name it",
}

# What may stand before the names of a backbone, the longest first.
_PREFIXES = ("backbone.bottom_up.", "bottom_up.", "backbone.", "model.", "encoder.", "")


@dataclass(kw_only=True)
class Found:
    """The backbone's tensors of a file.

    Attributes:
        layout: whose names they had.
        tensors: by the names of the model's backbone.
        names: the file's name of each of them.
        beside: the file's other tensors, by their own names.
        dropped: names of the file that detection has no use for.
        unknown: names of the file, below the backbone's prefix, that nobody knows.
    """

    layout: Layout
    tensors: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    beside: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def find_timm_backbone(model: nn.Module) -> tuple[str, TimmBackbone] | None:
    """Return the one model of timm in a detector, and what stands before its names.

    Args:
        model: a detector, a pyramid, or the backbone itself.
    """
    found = [(name, part) for name, part in model.named_modules() if isinstance(part, TimmBackbone)]
    if len(found) != 1:
        return None
    name, backbone = found[0]
    return (f"{name}." if name else "", backbone)


def find_tensors(backbone: TimmBackbone, file: Mapping[str, Tensor]) -> Found | None:
    """Find the tensors of a backbone in a file, whatever stands before their names.

    Args:
        backbone: that takes them.
        file: of a detector or of an encoder.

    Returns:
        The reading that gives the model most tensors of the right shape; None: none gives any.
    """
    own = backbone.state_dict()
    best: tuple[int, Found] | None = None
    for prefix in _PREFIXES:
        if not any(name.startswith(prefix) for name in file):
            continue
        for layout, table in _tables(backbone).items():
            found, score = _read(file, prefix, layout, table, own)
            if score and (best is None or score > best[0]):
                best = (score, found)
    return None if best is None else _without_unused(backbone, best[1])


def _read(
    file: Mapping[str, Tensor],
    prefix: str,
    layout: Layout,
    table: KeyTable,
    own: Mapping[str, Tensor],
) -> tuple[Found, int]:
    """Read a file in one way, and say how well it fits; 0: not at all."""
    found = Found(layout=layout)
    fitting = known = 0
    for key, value in file.items():
        if not key.startswith(prefix):
            found.beside[key] = value
            continue
        renamed = rename({key.removeprefix(prefix): value}, table)
        if not renamed.tensors:
            (found.dropped if renamed.dropped else found.unknown).append(key)
            continue
        (name,) = renamed.tensors
        found.tensors[name], found.names[name] = value, key
        known += name in own
        fitting += name in own and value.shape == own[name].shape
    # A shape counts for more than a name: stages have the same names in two layouts.
    return found, len(own) * fitting + known


def _tables(backbone: TimmBackbone) -> dict[Layout, KeyTable]:
    """Return the key table of every layout that fits the architecture."""
    tables: dict[Layout, KeyTable] = {
        "ours": {"net.{rest}": "net.{rest}", "norm{n}.{rest}": "norm{n}.{rest}"},
        "timm": {"{rest}": "net.{rest}"},
    }
    theirs = detectron2_table(backbone)
    return tables if theirs is None else {**tables, "detectron2": theirs}


def _without_unused(backbone: TimmBackbone, found: Found) -> Found:
    """Drop what timm's whole model has, and the backbone does not: its head, and late stages."""
    own = backbone.state_dict()
    with torch.device("meta"):
        whole = {f"net.{name}" for name in timm.create_model(backbone.name).state_dict()}
    for name in [name for name in found.tensors if name not in own]:
        del found.tensors[name]
        (found.dropped if name in whole else found.unknown).append(found.names[name])
    return found

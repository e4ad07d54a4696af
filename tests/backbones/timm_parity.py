# SPDX-License-Identifier: Apache-2.0
"""Detectron2's Swin and MViTv2 and those of timm: equal sizes, and sizes of images."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.backbones.timm_case import MVIT_CLASS_TOKEN, MVIT_DEPTHS, SWIN, SWIN_SIZES
from vitdet_d2.backbones import TimmBackbone
from vitdet_d2.layers.norm import layer_norm
from vitdet_d2.pretrained.key_table import rename
from vitdet_d2.pretrained.timm_tables import detectron2_table

# Windows of 7 tokens and of 56 divide none of these maps, but those of 224 pixels; one is smaller
# than a window, one is odd.
IMAGES = {
    "as_trained": (224, 224),
    "padded_windows": (160, 288),
    "one_window": (32, 64),
    "odd": (101, 147),
}
_LAST_BLOCKS = tuple(sum(MVIT_DEPTHS[: i + 1]) - 1 for i in range(len(MVIT_DEPTHS)))
# Arguments of Detectron2's classes; ours without their drop path, which evaluation has not.
THEIRS: dict[str, dict[str, Any]] = {
    "swin": SWIN_SIZES,
    "mvit": {
        "embed_dim": 8,
        "depth": sum(MVIT_DEPTHS),
        "last_block_indexes": _LAST_BLOCKS,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    },
}


@cache
def _golden() -> dict[str, Tensor]:
    return load_file(Path(__file__).with_name("golden_timm.safetensors"))


def stored(kind: str, what: str) -> dict[str, Tensor]:
    """Return what was measured on Detectron2's class."""
    start = f"{kind}/{what}/"
    return {k.removeprefix(start): v for k, v in _golden().items() if k.startswith(start)}


def their_names(kind: str) -> list[str]:
    """Return Detectron2's names of all parameters: each has a gradient."""
    return [name for name in stored(kind, "odd/gradient") if name != "input"]


def ours(kind: str) -> TimmBackbone:
    """Return the model of timm that is the same as Detectron2's."""
    if kind == "swin":
        return TimmBackbone(SWIN, out_norm=layer_norm(1e-5))
    return TimmBackbone(MVIT_CLASS_TOKEN, out_norm=layer_norm(1e-6), window_size=56)


def name_of_ours(kind: str, names: Iterable[str]) -> dict[str, str]:
    """Return our name for each of Detectron2's; every one is known."""
    with torch.device("meta"):
        table = detectron2_table(ours(kind))
    assert table is not None
    found = {}
    for name in names:
        (found[name],) = rename({name: torch.zeros(())}, table).tensors
    return found

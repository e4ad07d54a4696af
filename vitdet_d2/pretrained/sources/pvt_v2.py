# SPDX-License-Identifier: Apache-2.0
"""PVT v2, and MiT, the encoder of SegFormer, whose files have the same keys; also in timm's names.

The two differ in their perceptrons, which are four times as wide as the tokens in all of MiT's
stages, but for the largest size, which is the same in both. Weights of MiT that were released are
for non-commercial use.

Source: whai362/PVT, ``classification/pvt_v2.py`` and ``detection/pvt_v2.py``; the keys of
NVlabs/SegFormer's files; timm, ``models/pvt_v2.py``.
"""

from __future__ import annotations

import dataclasses
import re

from vitdet_d2.backbones.pvt_sizes import PVT_V2_SIZES
from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.family import PYRAMID
from vitdet_d2.pretrained.key_table import KeyTable, Target
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.pvt import (
    DEPTHWISE,
    STAGES,
    STEPS_AND_BLOCKS,
    TOOLBOX_PARTS,
)

MIT_LICENCE_NOTE = (
    "the weights of MiT that were released with SegFormer are for research and evaluation alone, "
    "not for commercial use (NVIDIA Source Code License for SegFormer)"
)
ENCODER: KeyTable = {
    **STEPS_AND_BLOCKS,
    **{
        name: name
        for stage in STAGES
        for name in (
            f"block{stage}.{{n}}.mlp.dwconv.dwconv.{{rest}}",
            f"norm{stage}.{{rest}}",
        )
    },
}
HEADS: KeyTable = {"head.{rest}": None}

_MIT_RATIO = 4
# The size that is in both tables.
_SHARED_DEPTH = PVT_V2_SIZES["b5"].depths[2]
_STAGE_3 = re.compile(r"block3\.(\d{1,4})\.")


def _timm_names() -> KeyTable:
    """Return timm's names: the first step stands alone, and each other in its stage."""
    table: dict[str, Target] = {"patch_embed.{rest}": "patch_embed1.{rest}", **HEADS}
    for stage in STAGES:
        place = f"stages.{stage - 1}."
        table[f"{place}downsample.{{rest}}"] = f"patch_embed{stage}.{{rest}}"
        # One module around the convolution is gone.
        table[f"{place}blocks.{{n}}.mlp.dwconv.{{rest}}"] = (
            f"block{stage}.{{n}}.mlp.dwconv.dwconv.{{rest}}"
        )
        table[f"{place}blocks.{{n}}.{{rest}}"] = f"block{stage}.{{n}}.{{rest}}"
        table[f"{place}norm.{{rest}}"] = f"norm{stage}.{{rest}}"
    return table


def _is_version_2(file: Unwrapped) -> bool:
    return {DEPTHWISE, "block1.0.mlp.fc1.weight"} <= file.state.keys()


def _is_mit(file: Unwrapped) -> bool:
    if not _is_version_2(file):
        return False
    hidden, width = file.state["block1.0.mlp.fc1.weight"].shape
    return hidden == _MIT_RATIO * width


def _is_either(file: Unwrapped) -> bool:
    depth = len({found[1] for name in file.state if (found := _STAGE_3.match(name))})
    return _is_mit(file) and depth == _SHARED_DEPTH


def _is_timm(file: Unwrapped) -> bool:
    stem = {"patch_embed.proj.weight", "stages.1.downsample.proj.weight"}
    return stem <= file.state.keys() and "stages.0.blocks.0.mlp.dwconv.weight" in file.state


def _say_which(file: Unwrapped) -> tuple[str, ...]:  # noqa: ARG001
    return (
        "PVT v2-b5 and MiT-b5 have the same keys, shapes and features; name the source pvt_v2 or "
        f"mit: {MIT_LICENCE_NOTE}",
    )


# One title for all layouts, since users name the source, and not one of them.
PVT_V2 = Source(
    name="pvt_v2",
    title="PVT v2",
    matches=_is_version_2,
    table={**ENCODER, **HEADS},
    beside=TOOLBOX_PARTS,
    normalisation=IMAGENET,
    num_prefix=lambda _: 0,
    heads={},
    family=PYRAMID,
)
TIMM_PVT_V2 = dataclasses.replace(PVT_V2, matches=_is_timm, table=_timm_names())
MIT = dataclasses.replace(
    PVT_V2,
    name="mit",
    title="MiT",
    matches=_is_mit,
    notes=lambda _: (MIT_LICENCE_NOTE,),
    evidence="its perceptrons, which are four times as wide as the tokens",
)
EITHER = dataclasses.replace(
    PVT_V2, name="pvt_v2_or_mit", title="PVT v2-b5 or MiT-b5", matches=_is_either, notes=_say_which
)
# The first that matches is taken; where it is named, a PVT v2 may have any perceptrons.
PVT_V2_LAYOUTS: tuple[Source, ...] = (EITHER, MIT, PVT_V2, TIMM_PVT_V2)

# SPDX-License-Identifier: Apache-2.0
"""PVT, version 1: the classifier, or the backbone of a detector of its authors.

The last stage has a position for the class token, which detection leaves out; and the classifier's
blocks there see that token, those of detection do not.

Source: whai362/PVT, ``classification/pvt.py`` and ``detection/pvt.py``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.family import PYRAMID
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source

STAGES = range(1, 5)
_PARTS = (
    "norm1", "attn.q", "attn.kv", "attn.proj", "attn.sr", "attn.norm", "norm2", "mlp.fc1", "mlp.fc2"
)  # fmt: skip
# Of each version, in the names of our backbones, which are the official ones.
STEPS_AND_BLOCKS: KeyTable = {
    name: name
    for stage in STAGES
    for name in (
        f"patch_embed{stage}.proj.{{rest}}",
        f"patch_embed{stage}.norm.{{rest}}",
        *(f"block{stage}.{{n}}.{part}.{{rest}}" for part in _PARTS),
    )
}
ENCODER: KeyTable = {
    **{f"pos_embed{stage}": f"pos_embed{stage}" for stage in STAGES},
    **STEPS_AND_BLOCKS,
}
# Of mmdetection and mmsegmentation, beside their ``backbone.``.
TOOLBOX_PARTS = tuple(
    f"{name}.{{rest}}"
    for name in (
        "neck", "rpn_head", "roi_head", "bbox_head", "mask_head", "decode_head", "auxiliary_head",
    )
)  # fmt: skip

_STEM = "patch_embed1.proj.weight"
# Between the layers of the perceptrons, of version 2 alone.
DEPTHWISE = "block1.0.mlp.dwconv.dwconv.weight"


def _matches(file: Unwrapped) -> bool:
    return _STEM in file.state and DEPTHWISE not in file.state


PVT = Source(
    name="pvt",
    title="PVT",
    matches=_matches,
    table={**ENCODER, "cls_token": None, "norm.{rest}": None, "head.{rest}": None},
    beside=TOOLBOX_PARTS,
    normalisation=IMAGENET,
    num_prefix=lambda _: 0,
    heads={},
    family=PYRAMID,
)

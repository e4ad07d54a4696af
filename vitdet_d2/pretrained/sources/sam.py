# SPDX-License-Identifier: Apache-2.0
"""The image encoder of SAM, a ViTDet backbone: official files of the whole model, and timm's.

Source: facebookresearch/segment-anything, ``modeling/image_encoder.py``; timm, ``samvit_*``, which
are built with another eps than the weights were trained with.
"""

from __future__ import annotations

from torch import Tensor

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable, Take
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source


def _as_tokens(positions: Tensor) -> Tensor:
    return positions.flatten(1, 2)  # (1, h, w, C) -> (1, h * w, C)


TABLE: KeyTable = {
    "pos_embed": Take("pos_embed", _as_tokens),
    "patch_embed.proj.{rest}": "patch_embed.proj.{rest}",
    "blocks.{n}.norm1.{rest}": "blocks.{n}.norm1.{rest}",
    "blocks.{n}.attn.qkv.{rest}": "blocks.{n}.attn.qkv.{rest}",
    "blocks.{n}.attn.proj.{rest}": "blocks.{n}.attn.proj.{rest}",
    "blocks.{n}.attn.rel_pos_h": "blocks.{n}.attn.rel_pos_h",
    "blocks.{n}.attn.rel_pos_w": "blocks.{n}.attn.rel_pos_w",
    "blocks.{n}.norm2.{rest}": "blocks.{n}.norm2.{rest}",
    "blocks.{n}.mlp.lin1.{rest}": "blocks.{n}.mlp.fc1.{rest}",
    "blocks.{n}.mlp.lin2.{rest}": "blocks.{n}.mlp.fc2.{rest}",
    "blocks.{n}.mlp.fc1.{rest}": "blocks.{n}.mlp.fc1.{rest}",  # timm
    "blocks.{n}.mlp.fc2.{rest}": "blocks.{n}.mlp.fc2.{rest}",
    "neck.{rest}": None,
}


def _matches(file: Unwrapped) -> bool:
    positions = file.state.get("pos_embed")
    return (
        "patch_embed.proj.weight" in file.state
        and any(name.startswith("neck.") for name in file.state)
        and positions is not None
        and positions.dim() == 4
    )


def _no_class_token(file: Unwrapped) -> int:  # noqa: ARG001
    return 0


SAM = Source(
    name="sam",
    title="the image encoder of SAM",
    matches=_matches,
    table=TABLE,
    beside=("prompt_encoder.{rest}", "mask_decoder.{rest}", "pixel_mean", "pixel_std"),
    normalisation=IMAGENET,
    num_prefix=_no_class_token,
    heads={768: 12, 1024: 16, 1280: 16},
)

# SPDX-License-Identifier: Apache-2.0
"""The image encoder of SAM as transformers stores it: a ViTDet backbone, bit by bit.

Source: huggingface/transformers, ``models/sam``.
"""

from __future__ import annotations

from torch import Tensor

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable, Take
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.hugging_face_names import blocks


def _as_tokens(positions: Tensor) -> Tensor:
    return positions.flatten(1, 2)  # (1, h, w, C) -> (1, h * w, C)


_BLOCK: KeyTable = {
    "layer_norm1.{rest}": "norm1.{rest}",
    "attn.{rest}": "attn.{rest}",
    "layer_norm2.{rest}": "norm2.{rest}",
    "mlp.lin1.{rest}": "mlp.fc1.{rest}",
    "mlp.lin2.{rest}": "mlp.fc2.{rest}",
}
TABLE: KeyTable = {
    "pos_embed": Take("pos_embed", _as_tokens),
    "patch_embed.projection.{rest}": "patch_embed.proj.{rest}",
    **blocks(_BLOCK, places=("layers",)),
    "neck.{rest}": None,
}


def _matches(file: Unwrapped) -> bool:
    return {"patch_embed.projection.weight", "layers.0.mlp.lin1.weight"} <= file.state.keys()


def _no_class_token(file: Unwrapped) -> int:  # noqa: ARG001
    return 0


HUGGING_FACE_SAM = Source(
    name="hugging_face_sam",
    title="SAM of Hugging Face",
    matches=_matches,
    table=TABLE,
    beside=("prompt_encoder.{rest}", "mask_decoder.{rest}", "shared_image_embedding.{rest}"),
    normalisation=IMAGENET,
    num_prefix=_no_class_token,
    origins=("sam",),
)

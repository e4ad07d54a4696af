# SPDX-License-Identifier: Apache-2.0
"""MAE: masked autoencoders, with the decoder that shows them; encoders alone are plain ViTs.

Source: facebookresearch/mae, ``models_mae.py`` and ``models_vit.py``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS, OWN

TABLE: KeyTable = {
    **ENCODER,
    **HEADS,
    **OWN,
    "mask_token": None,
    "decoder_pos_embed": None,
    "decoder_embed.{rest}": None,
    "decoder_blocks.{rest}": None,
    "decoder_norm.{rest}": None,
    "decoder_pred.{rest}": None,
}


def _has_decoder(file: Unwrapped) -> bool:
    return "decoder_pos_embed" in file.state


MAE = Source(name="mae", title="MAE", matches=_has_decoder, table=TABLE, normalisation=IMAGENET)

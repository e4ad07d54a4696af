# SPDX-License-Identifier: Apache-2.0
"""Plain ViTs as transformers stores them: ViT, ViTMAE, DeiT, I-JEPA, MSN.

Their encoders have the same keys; where something beside the encoder tells them apart, the source
is recognised, and where not (a ViTMAE encoder, MSN), the user may name it.

Source: huggingface/transformers, ``models/{vit,vit_mae,deit,ijepa,vit_msn}``. Their configurations
have a layer norm epsilon of 1e-12, the models that they were converted from 1e-6.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.hugging_face_names import (
    ATTENTION,
    EMBEDDINGS,
    NORMS_AND_PERCEPTRON,
    PATCHES,
    POOLING,
    blocks,
    count_tokens,
)
from vitdet_d2.pretrained.sources.plain import PLAIN_ORIGINS

TABLE: KeyTable = {
    **EMBEDDINGS,
    **blocks(ATTENTION, NORMS_AND_PERCEPTRON),
    **POOLING,
    "classifier.{rest}": None,
    "cls_classifier.{rest}": None,
    "distillation_classifier.{rest}": None,
    # ViTMAE's below its own names, and the pixels of masked patches of a ViT.
    "decoder.{rest}": None,
}
_BESIDE = ("classifier.{rest}", "decoder.{rest}")


def _matches(file: Unwrapped) -> bool:
    return PATCHES in file.state


def _has_decoder(file: Unwrapped) -> bool:
    names = (*file.state, *file.beside)
    return _matches(file) and any(name.endswith("decoder.decoder_pos_embed") for name in names)


def _is_deit(file: Unwrapped) -> bool:
    distilled = "embeddings.distillation_token" in file.state
    return _matches(file) and (distilled or "deit." in file.wrappers)


def _without_class_token(file: Unwrapped) -> bool:
    positions = "embeddings.position_embeddings" in file.state
    return _matches(file) and positions and not count_tokens(file)


HUGGING_FACE_VIT_MAE = Source(
    name="hugging_face_vit_mae",
    title="ViTMAE of Hugging Face",
    matches=_has_decoder,
    origins=("mae",),
    table=TABLE,
    beside=_BESIDE,
    normalisation=IMAGENET,
    num_prefix=count_tokens,
)
HUGGING_FACE_DEIT = Source(
    name="hugging_face_deit",
    title="DeiT of Hugging Face",
    matches=_is_deit,
    origins=("deit",),
    table=TABLE,
    beside=(*_BESIDE, "cls_classifier.{rest}", "distillation_classifier.{rest}"),
    normalisation=IMAGENET,
    num_prefix=count_tokens,
)
HUGGING_FACE_IJEPA = Source(
    name="hugging_face_ijepa",
    title="I-JEPA of Hugging Face",
    matches=_without_class_token,
    origins=("ijepa",),
    table=TABLE,
    beside=_BESIDE,
    normalisation=IMAGENET,
    num_prefix=count_tokens,
)
HUGGING_FACE_VIT = Source(
    name="hugging_face_vit",
    title="a plain ViT of Hugging Face",
    matches=_matches,
    origins=(*PLAIN_ORIGINS, *(f"hugging_face_{name}" for name in ("vit_mae", "deit"))),
    table=TABLE,
    beside=_BESIDE,
    num_prefix=count_tokens,
)

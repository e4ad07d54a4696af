# SPDX-License-Identifier: Apache-2.0
"""MAE: masked autoencoders; with decoder, encoder only, or fine-tuned for classification.

Source: facebookresearch/mae, ``models_mae.py`` and ``models_vit.py``.
"""

from __future__ import annotations

import dataclasses

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import IMAGENET
from vitdet_d2.pretrained.sincos import is_fixed
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.plain import (
    ENCODER,
    HEADS,
    OWN,
    PLAIN_ORIGINS,
    count_class_rows,
)

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

# MAE's ViT-H has patches of 14 pixels on a grid of 16 x 16; Detectron2's zoo has a copy of it
# whose kernel was brought to 16 pixels, by plain bicubic interpolation.
_HUGE_WIDTH, _HUGE_GRID, _RESIZED_PATCH = 1280, 16, 16


def _has_decoder(file: Unwrapped) -> bool:
    return "decoder_pos_embed" in file.state


def _is_fine_tuned(file: Unwrapped) -> bool:
    """The mean of all patches is classified, after a norm that stands for the encoder's."""
    ends = {"cls_token", "fc_norm.weight", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias"}
    if "model" not in file.wrappers:
        return False  # timm has more such ViTs, of other sources
    scaled = {"norm.weight", "blocks.0.gamma_1", "blocks.0.ls1.gamma", "norm_pre.weight"}
    return ends <= file.state.keys() and not scaled & file.state.keys()


def _has_fixed_positions(file: Unwrapped) -> bool:
    if not {"pos_embed", "cls_token", "patch_embed.proj.weight"} <= file.state.keys():
        return False
    positions, num_prefix = file.state["pos_embed"], count_class_rows(file)
    if num_prefix != 1:
        return False
    if _is_resized(file) and is_fixed(positions, 1, "columns", resized_from=_HUGE_GRID):
        return True
    return is_fixed(positions, 1, "columns")


def _is_resized(file: Unwrapped) -> bool:
    kernel = file.state.get("patch_embed.proj.weight")
    return kernel is not None and (kernel.shape[0], kernel.shape[-1]) == (
        _HUGE_WIDTH,
        _RESIZED_PATCH,
    )


def _patch_is_final(file: Unwrapped) -> str | None:
    if not _is_resized(file):
        return None
    return (
        "MAE's ViT-H has patches of 14 pixels, so this kernel of 16 was resized already, and "
        "would lose by it again; take the original file, mae_pretrain_vit_huge.pth"
    )


def _notes(file: Unwrapped) -> tuple[str, ...]:
    if not _is_resized(file):
        return ()
    return ("its patch kernel was resized from 14 to 16 pixels where the file was made",)


# One title for all, since users name the source, and not one of its layouts.
MAE = Source(
    name="mae",
    title="MAE",
    matches=_has_decoder,
    table=TABLE,
    normalisation=IMAGENET,
    patch_is_final=_patch_is_final,
    notes=_notes,
    evidence="the keys of its decoder",
)
MAE_FINE_TUNED = dataclasses.replace(
    MAE,
    matches=_is_fine_tuned,
    evidence="a norm of the mean (fc_norm) in place of the encoder's, below 'model'",
    origins=PLAIN_ORIGINS,
)
# Keys are those of any plain ViT.
MAE_ENCODER = dataclasses.replace(
    MAE,
    matches=_has_fixed_positions,
    evidence="its fixed position embedding, columns first",
    origins=PLAIN_ORIGINS,
)

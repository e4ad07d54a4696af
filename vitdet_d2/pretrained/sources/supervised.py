# SPDX-License-Identifier: Apache-2.0
"""ViTs that were trained with labels: DeiT, DeiT-distilled, DeiT III, AugReg, in timm's names too.

DeiT and AugReg have the keys of any plain ViT (`plain`), but for what is matched here; their names
are for users who know where a file comes from.

Source: facebookresearch/deit, ``models.py`` and ``models_v2.py``; timm,
``models/vision_transformer.py``.
"""

from __future__ import annotations

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable
from vitdet_d2.pretrained.normalisation import HALF, IMAGENET
from vitdet_d2.pretrained.source import Source
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS, count_class_rows

DISTILLED_TABLE: KeyTable = {**ENCODER, **HEADS, "dist_token": None, "head_dist.{rest}": None}
DEIT3_TABLE: KeyTable = {
    **ENCODER,
    **HEADS,
    "blocks.{n}.gamma_1": "blocks.{n}.ls1.gamma",
    "blocks.{n}.gamma_2": "blocks.{n}.ls2.gamma",
    # As timm names them.
    "blocks.{n}.ls1.gamma": "blocks.{n}.ls1.gamma",
    "blocks.{n}.ls2.gamma": "blocks.{n}.ls2.gamma",
}

_PARALLEL = "blocks.0.attn1.qkv.weight"
# Three convolutions with norms between them cut out the patches.
_STEM_OF_THREE = "patch_embed.proj.0.weight"
# What encoders of other sources have beside LayerScale.
_NOT_DEIT3 = {"mask_token", "reg_token", "register_tokens", "norm_pre.weight"}


def _is_distilled(file: Unwrapped) -> bool:
    return "dist_token" in file.state


def _is_deit3(file: Unwrapped) -> bool:
    names = file.state.keys()
    if _PARALLEL in names or (_STEM_OF_THREE in names and "pos_embed" in names):
        return True
    scaled = {"blocks.0.gamma_1", "blocks.0.ls1.gamma"} & names
    others = {"blocks.0.attn.q_bias", *_NOT_DEIT3} & names
    # Its class token has no position, unlike DINOv2's and iBOT's.
    return bool(
        {"pos_embed", "cls_token"} <= names
        and scaled
        and not others
        and count_class_rows(file) == 0
    )


def _is_augreg(file: Unwrapped) -> bool:
    """The layer before the classifier, of models that were trained on all of ImageNet."""
    return any(name.startswith("pre_logits.") for name in file.state)


def _refuse_deit3(file: Unwrapped) -> str | None:
    if _PARALLEL in file.state:
        return (
            "its blocks have two attention layers side by side (blocks.N.attn1, norm11, mlp1: the "
            "paralx2 models), which a plain ViT has not; take a model without them"
        )
    if _STEM_OF_THREE in file.state:
        return (
            "its patches come from a stem of three convolutions with norms (patch_embed.proj.0 to "
            ".7: the hMLP models), which a plain ViT has not; take a model without it"
        )
    return None


# The class token and the one for distillation.
DEIT = Source(
    name="deit",
    title="DeiT",
    matches=_is_distilled,
    table=DISTILLED_TABLE,
    normalisation=IMAGENET,
    num_prefix=lambda file: 2,  # noqa: ARG005
    evidence="its distillation token",
)
DEIT3 = Source(
    name="deit3",
    title="DeiT III",
    matches=_is_deit3,
    table=DEIT3_TABLE,
    normalisation=IMAGENET,
    num_prefix=count_class_rows,
    refuse=_refuse_deit3,
)
AUGREG = Source(
    name="augreg",
    title="AugReg",
    matches=_is_augreg,
    table={**ENCODER, **HEADS},
    normalisation=HALF,
    origins=("google",),
    evidence="the layer before its classifier (pre_logits)",
)

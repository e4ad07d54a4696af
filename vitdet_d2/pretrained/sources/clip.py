# SPDX-License-Identifier: Apache-2.0
"""The image tower of CLIP: OpenAI's archives, OpenCLIP's files, and timm's.

The first two have the same keys; the activation is in none of them. OpenAI's archives are known by
the sizes that they carry, ``input_resolution`` among them.

Source: openai/CLIP, ``clip/model.py``; mlfoundations/open_clip, ``transformer.py``; timm,
``vit_*_clip_*``.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from vitdet_d2.pretrained.container import Unwrapped
from vitdet_d2.pretrained.key_table import KeyTable, Take
from vitdet_d2.pretrained.normalisation import CLIP as CLIP_STATISTICS
from vitdet_d2.pretrained.normalisation import Normalisation
from vitdet_d2.pretrained.source import Needs, Source
from vitdet_d2.pretrained.sources.plain import ENCODER, HEADS, OWN


def _add_batch(positions: Tensor) -> Tensor:
    return positions[None]  # (1 + h * w, C) -> (1, 1 + h * w, C)


_BLOCK = "transformer.resblocks.{n}."
TABLE: KeyTable = {
    "conv1.weight": "patch_embed.proj.weight",
    "positional_embedding": Take("pos_embed", _add_batch),
    "class_embedding": None,
    "ln_pre.{rest}": "norm_pre.{rest}",
    f"{_BLOCK}ln_1.{{rest}}": "blocks.{n}.norm1.{rest}",
    f"{_BLOCK}attn.in_proj_weight": "blocks.{n}.attn.qkv.weight",
    f"{_BLOCK}attn.in_proj_bias": "blocks.{n}.attn.qkv.bias",
    f"{_BLOCK}attn.out_proj.{{rest}}": "blocks.{n}.attn.proj.{rest}",
    f"{_BLOCK}ls_1.gamma": "blocks.{n}.ls1.gamma",
    f"{_BLOCK}ln_2.{{rest}}": "blocks.{n}.norm2.{rest}",
    f"{_BLOCK}mlp.c_fc.{{rest}}": "blocks.{n}.mlp.fc1.{rest}",
    f"{_BLOCK}mlp.c_proj.{{rest}}": "blocks.{n}.mlp.fc2.{rest}",
    f"{_BLOCK}ls_2.gamma": "blocks.{n}.ls2.gamma",
    "ln_post.{rest}": None,
    "proj": None,
    "attn_pool.{rest}": None,
    "attn_pool_contrastive.{rest}": None,
}
# The text tower, what joins the two, and sizes that an archive carries.
BESIDE_TOWER = (
    "transformer.{rest}",
    "text.{rest}",
    "text_decoder.{rest}",
    "token_embedding.{rest}",
    "positional_embedding",
    "ln_final.{rest}",
    "text_projection",
    "text_projection.{rest}",
    "logit_scale",
    "logit_bias",
    "attn_mask",
    "visual.head.{rest}",  # beside a tower of timm
    "input_resolution",
    "context_length",
    "vocab_size",
)


# That one normalises by 0.5, as OpenCLIP's list of models says.
_LARGE = (
    "the keys do not tell a ViT-L/14 that LAION trained on LAION-2B, whose images were normalised "
    "by 0.5: set the recipe's pixel_mean and pixel_std to 127.5 for it, and keep them by "
    "train.init_options.normalisation=recipe"
)


def _is_in_timm(file: Unwrapped) -> bool:
    """Whether it is a plain ViT with a norm before the blocks, and no bias of the patches."""
    is_timm = {"patch_embed.proj.weight", "norm_pre.weight"} <= file.state.keys()
    return is_timm and "patch_embed.proj.bias" not in file.state


def _is_tower(file: Unwrapped) -> bool:
    is_vit = {"class_embedding", "conv1.weight"} <= file.state.keys()
    is_resnet = {"layer1.0.conv1.weight", "attnpool.c_proj.weight"} <= file.state.keys()
    return is_vit or is_resnet or _is_in_timm(file)


def _table(file: Unwrapped) -> KeyTable:
    return {**ENCODER, **HEADS, **OWN} if _is_in_timm(file) else TABLE


def _is_open_clip(file: Unwrapped) -> bool:
    return _is_tower(file) and "input_resolution" not in file.beside


def _refuse(file: Unwrapped) -> str | None:
    if "layer1.0.conv1.weight" in file.state:
        return "its image tower is a ResNet, not a ViT; take one of its ViTs"
    return None


def _class_token(file: Unwrapped) -> int:  # noqa: ARG001
    return 1


def _needs(file: Unwrapped) -> Needs:  # noqa: ARG001
    return Needs(act="quick_gelu", eps=1e-5)


def _needs_of_open_clip(file: Unwrapped) -> Needs:  # noqa: ARG001
    return Needs(act="gelu", eps=1e-5)


def _normalisation_of_open_clip(file: Unwrapped) -> Normalisation | None:
    """CLIP's, but of variants without a norm before the blocks (CLIPA), which have others."""
    has_norm = "ln_pre.weight" in file.state or _is_in_timm(file)
    return CLIP_STATISTICS if has_norm else None


def _notes_of_open_clip(file: Unwrapped) -> tuple[str, ...]:
    kernel = file.state.get("conv1.weight", file.state.get("patch_embed.proj.weight"))
    is_large = kernel is not None and (kernel.shape[0], kernel.shape[-1]) == (1024, 14)
    return (
        *((_LARGE,) if is_large else ()),
        "the keys do not tell the activation: gelu is taken, as of LAION's and DataComp's models; "
        "for those named -quickgelu, and OpenAI's weights, name the source clip",
    )


CLIP = Source(
    name="clip",
    title="CLIP",
    matches=_is_tower,
    table=_table,
    beside=BESIDE_TOWER,
    normalisation=CLIP_STATISTICS,
    num_prefix=_class_token,
    needs=_needs,
    heads={768: 12, 1024: 16},
    refuse=_refuse,
)
# Before CLIP, which also takes its keys where it is named.
OPEN_CLIP = dataclasses.replace(
    CLIP,
    name="openclip",
    title="OpenCLIP",
    matches=_is_open_clip,
    normalisation=_normalisation_of_open_clip,
    needs=_needs_of_open_clip,
    heads={384: 6, 512: 8, 768: 12, 896: 14, 1024: 16, 1280: 16, 1408: 16, 1664: 16},
    notes=_notes_of_open_clip,
)

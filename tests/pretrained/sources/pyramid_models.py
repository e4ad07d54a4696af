# SPDX-License-Identifier: Apache-2.0
"""Pyramid transformers of timm and Hugging Face, small and filled, with the maps that they give."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import Tensor, nn

from tests.pretrained import golden
from tests.pretrained.pyramid_golden import RATIOS, SIZE

# Of transformers' names for what our classes call otherwise.
_CONFIG: dict[str, Any] = {
    "hidden_sizes": SIZE["embed_dims"],
    "depths": SIZE["depths"],
    "num_attention_heads": SIZE["num_heads"],
    "num_labels": 5,
}
# Modules whose norm the official models give 1e-5; the others have 1e-6.
_INNER = ("patch_embed", "attention.", "reduction")


def timm_pvt_v2(*, linear: bool) -> nn.Module:
    """Return a classifier of timm."""
    model = PyramidVisionTransformerV2(**SIZE, mlp_ratios=RATIOS, linear=linear, num_classes=5)
    return _filled(model)


def timm_maps(model: Any, picture: Tensor) -> list[Tensor]:
    """Return what timm's stages give."""
    with torch.no_grad():
        return list(model.forward_intermediates(picture, intermediates_only=True))


def hugging_face(kind: str) -> nn.Module:
    """Return a model of transformers, with the epsilons of the official ones."""
    if kind == "pvt":
        config: Any = transformers.PvtConfig(
            **_CONFIG, image_size=64, mlp_ratios=RATIOS,
            sequence_reduction_ratios=SIZE["sr_ratios"],
        )  # fmt: skip
        model: nn.Module = transformers.PvtForImageClassification(config)
    elif kind.startswith("pvt_v2"):
        config = transformers.PvtV2Config(
            **_CONFIG, image_size=64, mlp_ratios=RATIOS, sr_ratios=SIZE["sr_ratios"],
            linear_attention=kind == "pvt_v2_linear",
        )  # fmt: skip
        model = transformers.PvtV2ForImageClassification(config)
    else:
        config = transformers.SegformerConfig(
            **_CONFIG, mlp_ratios=[4, 4, 4, 4], sr_ratios=SIZE["sr_ratios"],
            decoder_hidden_size=8,
        )  # fmt: skip
        heads = {
            "mit": transformers.SegformerForImageClassification,
            "mit_segmentation": transformers.SegformerForSemanticSegmentation,
        }
        model = heads[kind](config)
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            inner = any(part in name for part in _INNER)
            module.eps = 1e-5 if inner else 1e-6
    return _filled(model)


def hugging_face_maps(model: Any, picture: Tensor) -> list[Tensor]:
    """Return the maps of the encoder, ``(1, C, h, w)`` each."""
    with torch.no_grad():
        states = model.base_model(picture, output_hidden_states=True).hidden_states
    return list(states[-4:])


def _filled(model: nn.Module) -> nn.Module:
    model.eval()
    golden.fill_model(model)
    return model


@torch.no_grad()
def hugging_face_pvt_maps(model: Any, picture: Tensor) -> list[Tensor]:
    """Return the maps of a PVT without its class token, ``(1, C, h, w)`` each."""
    encoder, x, maps = model.pvt.encoder, picture, []
    for embedding, blocks in zip(encoder.patch_embeddings, encoder.block, strict=True):
        x = embedding.projection(x)
        height, width = x.shape[2:]
        tokens = embedding.layer_norm(x.flatten(2).transpose(1, 2))
        tokens = tokens + embedding.position_embeddings[:, -height * width :]
        for block in blocks:
            found = block(hidden_states=tokens, height=height, width=width)
            tokens = found[0] if isinstance(found, tuple) else found
        x = tokens.transpose(1, 2).unflatten(2, (height, width))
        maps.append(x)
    return maps

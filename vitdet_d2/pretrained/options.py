# SPDX-License-Identifier: Apache-2.0
"""The arguments of `ViT` with which it takes the weights of a file as they are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from vitdet_d2.errors import WeightsError
from vitdet_d2.pretrained.container import unwrap
from vitdet_d2.pretrained.encoder import BLOCK_BIAS, POSITIONS, SHARED_BIAS, Encoder
from vitdet_d2.pretrained.family import PLAIN_VIT
from vitdet_d2.pretrained.other_detector import encoder_within
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.pretrained.recognise import encoder_of

_GATE = "blocks.0.mlp.w1.weight"


def vit_options(
    weights: str | os.PathLike[str] | Mapping[str, Any], *, source: str | None = None
) -> dict[str, Any]:
    """Return arguments of `vitdet_d2.backbones.ViT` that fit a file of an encoder.

    Windows, the size of the images and drop path are the user's; `ViT(**vit_options(path))` is the
    encoder as it was trained, with global attention, and without its prefix tokens.

    Args:
        weights: path, address or name as `read_weights` takes it, or what that returned.
        source: name of the source, where its keys cannot tell it.

    Raises:
        WeightsError: the file cannot be read, or is of no known plain ViT.
    """
    path, encoder = read_encoder(weights, source)
    if encoder.source.family is not PLAIN_VIT:
        raise WeightsError(
            f"{path}: {encoder.source.title} is {encoder.source.family.title}; pyramid_options "
            f"gives the arguments of {encoder.source.family.takers}"
        )
    return arguments_of(encoder)


def read_encoder(
    weights: str | os.PathLike[str] | Mapping[str, Any], source: str | None
) -> tuple[str, Encoder]:
    """Read weights of an encoder.

    Args:
        weights: path, address or name as `read_weights` takes it, or what that returned.
        source: name of the source, where its keys cannot tell it.

    Returns:
        What they are called in messages, and the encoder.

    Raises:
        WeightsError: they cannot be read, or are of no known encoder.
    """
    path = "the weights" if isinstance(weights, Mapping) else os.fspath(weights)
    content = weights if isinstance(weights, Mapping) else read_weights(weights)
    file = unwrap(path, content)
    file = encoder_within(file) or file
    if file.is_detector:
        raise WeightsError(f"{path}: a whole detector; take the recipe that it was trained with")
    return path, encoder_of(path, file, source)


def arguments_of(encoder: Encoder) -> dict[str, Any]:
    """Return what `vit_options` does, of an encoder that was read already.

    Args:
        encoder: in our names.
    """
    names = encoder.tensors
    options: dict[str, Any] = {
        "patch_size": encoder.patch_size,
        "embed_dim": encoder.width,
        "depth": encoder.depth,
        "mlp_ratio": _hidden_width(encoder) / encoder.width,
        "norm_layer": partial(nn.LayerNorm, eps=encoder.needs.eps),
        # Gated perceptrons have their own, SiLU.
        "act": None if _GATE in names else encoder.needs.act,
        "rope": encoder.needs.rope,
        "qkv_bias": "blocks.0.attn.qkv.bias" in names,
        "pre_norm": "norm_pre.weight" in names,
        "mlp": "swiglu" if _GATE in names else "gelu",
        "mlp_norm": "blocks.0.mlp.ffn_ln.weight" in names,
        "layer_scale_init": 1.0 if "blocks.0.ls1.gamma" in names else None,
        "rel_pos_bias": _kind_of_bias(encoder),
        "use_rel_pos": "blocks.0.attn.rel_pos_h" in names,
        "use_abs_pos": POSITIONS in names,
    }
    if encoder.num_heads is not None:
        options["num_heads"] = encoder.num_heads
    if POSITIONS in names:
        side = math.isqrt(names[POSITIONS].shape[1] - encoder.num_prefix)
        options["pretrain_img_size"] = side * encoder.patch_size
        options["pretrain_use_cls_token"] = encoder.num_prefix > 0
    return options


def _hidden_width(encoder: Encoder) -> int:
    for name in ("blocks.0.mlp.fc1.weight", _GATE):
        if name in encoder.tensors:
            return encoder.tensors[name].shape[0]
    return 4 * encoder.width


def _kind_of_bias(encoder: Encoder) -> str | None:
    if SHARED_BIAS in encoder.tensors:
        return "shared"
    return "per_block" if f"blocks.0.{BLOCK_BIAS}" in encoder.tensors else None

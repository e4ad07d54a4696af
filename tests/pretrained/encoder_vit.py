# SPDX-License-Identifier: Apache-2.0
"""Our ViT with the tensors of an encoder, name by name: tests of key tables need nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitdet_d2.backbones.vit import ViT
from vitdet_d2.pretrained.container import unwrap
from vitdet_d2.pretrained.encoder import Encoder
from vitdet_d2.pretrained.reader import read_weights
from vitdet_d2.pretrained.recognise import encoder_of


def read_encoder(content: Mapping[str, Any], source: str | None = None) -> Encoder:
    """Bring what a file holds to our names."""
    return encoder_of("the file", unwrap("the file", content), source)


def read_file(path: Path, source: str | None = None) -> Encoder:
    """Read a file through the safe reader, and bring its encoder to our names."""
    return encoder_of(path.name, unwrap(path.name, read_weights(path)), source)


def vit_of(encoder: Encoder, *, num_heads: int, **changes: Any) -> ViT:
    """Build the ViT that an encoder is, and give it all its tensors."""
    names = encoder.tensors
    hidden = next(names[f"blocks.0.mlp.{n}.weight"] for n in ("w1", "fc1") if _has(encoder, n))
    options: dict[str, Any] = {
        "patch_size": encoder.patch_size,
        "embed_dim": encoder.width,
        "depth": encoder.depth,
        "num_heads": num_heads,
        "mlp_ratio": hidden.shape[0] / encoder.width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in names,
        "norm_layer": partial(nn.LayerNorm, eps=encoder.needs.eps),
        "act": encoder.needs.act,
        "rope": encoder.needs.rope,
        "mlp": "swiglu" if _has(encoder, "w1") else "gelu",
        "pre_norm": "norm_pre.weight" in names,
        "layer_scale_init": 1.0 if "blocks.0.ls1.gamma" in names else None,
        "use_rel_pos": "blocks.0.attn.rel_pos_h" in names,
        "use_abs_pos": "pos_embed" in names,
        "pretrain_use_cls_token": encoder.num_prefix == 1,
    }
    if "pos_embed" in names:
        side = math.isqrt(names["pos_embed"].shape[1] - encoder.num_prefix)
        options["pretrain_img_size"] = side * encoder.patch_size
        options["img_size"] = side * encoder.patch_size
    vit = ViT(**{**options, **changes})
    tensors = {"patch_embed.proj.bias": torch.zeros(encoder.width), **names}
    if encoder.num_prefix > 1:
        tensors["pos_embed"] = tensors["pos_embed"][:, encoder.num_prefix :]
    vit.load_state_dict({name: value.float() for name, value in tensors.items()})
    return vit.eval()


def _has(encoder: Encoder, layer: str) -> bool:
    return f"blocks.0.mlp.{layer}.weight" in encoder.tensors

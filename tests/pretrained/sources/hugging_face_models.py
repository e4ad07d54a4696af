# SPDX-License-Identifier: Apache-2.0
"""Small models of transformers, and what their own layers compute of an image.

Every weight is made from its name, so that none is what its initialisation would leave symmetric.
Images are 64 pixels, patches 16: grids of 4x4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests.pretrained.golden import fill_model, image

SIDE, PATCH = 64, 16
IMAGE = image(SIDE, SIDE)
WIDTH, HEADS, DEPTH = 24, 3, 2

_EPS = {"layer_norm_eps": 1e-6}
_SIZE = {
    "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
PLAIN_SIZE = {**_SIZE, "intermediate_size": 2 * WIDTH}
_PLAIN = {**PLAIN_SIZE, **_EPS}
_RATIO = {**_SIZE, **_EPS, "mlp_ratio": 2}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model.

    Attributes:
        build: makes it.
        source: that its files are recognised as.
        patches_only: runs its layers over the patches, without prefix tokens.
        vit: arguments of our ViT beside those of its size.
        inner: prefix of the encoder's names in the model.
        final: name of the norm behind the encoder, where the whole model can be compared.
    """

    build: Callable[[], nn.Module]
    source: str
    patches_only: Callable[[Any, Tensor], Tensor]
    vit: dict[str, Any] = field(default_factory=dict)
    inner: str = ""
    final: str | None = "layernorm"

    def make(self) -> Any:
        """Build the model with weights made from their names."""
        model = self.build().eval()
        fill_model(model)
        return model

    def encoder(self, model: Any) -> Any:
        """Return the encoder within the model."""
        return model.get_submodule(self.inner)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def layers_of(encoder: Any) -> Any:
    """Return the blocks, which versions and families keep in other places."""
    holder = next(
        part
        for part in (encoder, getattr(encoder, "encoder", None), getattr(encoder, "model", None))
        if hasattr(part, "layer") or hasattr(part, "layers")
    )
    return holder.layer if hasattr(holder, "layer") else holder.layers


def _positioned(encoder: Any, picture: Tensor, prefix: int) -> Tensor:
    embeddings = encoder.embeddings
    return embeddings.patch_embeddings(picture) + embeddings.position_embeddings[:, prefix:]


def _plain(prefix: int) -> Callable[[Any, Tensor], Tensor]:
    def run(encoder: Any, picture: Tensor) -> Tensor:
        x = _positioned(encoder, picture, prefix)
        for layer in layers_of(encoder):
            x = _first(layer(x))
        return x

    return run


def _beit(encoder: Any, picture: Tensor) -> Tensor:
    """Run the layers with the rows and columns of the patches of the position biases."""
    grid = (SIDE // PATCH, SIDE // PATCH)
    shared = encoder.shared_position_bias
    x = encoder.embeddings.patch_embeddings(picture)
    for layer in encoder.layers:
        bias = shared(grid) if layer.relative_position_bias is None else None
        if bias is None:
            bias, layer.relative_position_bias = layer.relative_position_bias(grid), None
        x = layer(x, attention_mask=bias[..., 1:, 1:])
    return x


def _data2vec(encoder: Any, picture: Tensor) -> Tensor:
    grid = (SIDE // PATCH, SIDE // PATCH)
    bias = encoder.encoder.relative_position_bias(grid)[..., 1:, 1:]
    x, _ = encoder.embeddings.patch_embeddings(picture)
    for layer in encoder.encoder.layer:
        x = _first(layer(x, relative_position_bias=bias))
    return x


def _dinov3(encoder: Any, picture: Tensor) -> Tensor:
    angles = encoder.rope_embeddings(picture)
    x = encoder.embeddings.patch_embeddings(picture).flatten(2).transpose(1, 2)
    for layer in layers_of(encoder):
        x = _first(layer(x, position_embeddings=angles))
    return x


def _clip(encoder: Any, picture: Tensor) -> Tensor:
    embeddings = encoder.embeddings
    x = embeddings.patch_embedding(picture).flatten(2).transpose(1, 2)
    x = encoder.pre_layrnorm(x + embeddings.position_embedding.weight[1:])
    for layer in encoder.encoder.layers:
        x = _first(layer(x, attention_mask=None))
    return x


def _sam(encoder: Any, picture: Tensor) -> Tensor:
    x = encoder.patch_embed(picture) + encoder.pos_embed
    for layer in encoder.layers:
        x = _first(layer(x))
    return x.flatten(1, 2)


def _vitdet(encoder: Any, picture: Tensor) -> Tensor:
    return encoder(picture).last_hidden_state.flatten(2).transpose(1, 2)


_NO_POSITIONS = {"use_abs_pos": False, "layer_scale_init": 1.0}
_TABLES = {"use_rel_pos": True, "window_size": 3, "window_block_indexes": [0]}
_DECODER = {
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}  # fmt: skip
_SAM_VISION = {
    "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
    "mlp_dim": 2 * WIDTH, "image_size": SIDE, "patch_size": PATCH, "window_size": 3,
    "global_attn_indexes": [1], "output_channels": 8,
}  # fmt: skip

CASES: dict[str, Case] = {
    "vit": Case(
        build=lambda: transformers.ViTModel(transformers.ViTConfig(**_PLAIN)),
        source="hugging_face_vit",
        patches_only=_plain(1),
    ),
    "vit_classifier": Case(
        build=lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**_PLAIN)),
        source="hugging_face_vit",
        patches_only=_plain(1),
        inner="vit",
    ),
    "vit_masked": Case(
        build=lambda: transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**_PLAIN)),
        source="hugging_face_vit",
        patches_only=_plain(1),
        inner="vit",
    ),
    "vit_mae": Case(
        build=lambda: transformers.ViTMAEModel(
            transformers.ViTMAEConfig(**_PLAIN, mask_ratio=0.0)
        ),
        source="hugging_face_vit",
        patches_only=_plain(1),
        final=None,
    ),
    "vit_mae_pretraining": Case(
        build=lambda: transformers.ViTMAEForPreTraining(
            transformers.ViTMAEConfig(**_PLAIN, **_DECODER)
        ),
        source="hugging_face_vit_mae",
        patches_only=_plain(1),
        inner="vit",
        final=None,
    ),
    "deit_distilled": Case(
        build=lambda: transformers.DeiTForImageClassificationWithTeacher(
            transformers.DeiTConfig(**_PLAIN)
        ),
        source="hugging_face_deit",
        patches_only=_plain(2),
        inner="deit",
    ),
    "ijepa": Case(
        build=lambda: transformers.IJepaModel(transformers.IJepaConfig(**_PLAIN)),
        source="hugging_face_ijepa",
        patches_only=_plain(0),
        vit={"pretrain_use_cls_token": False},
    ),
    "msn": Case(
        build=lambda: transformers.ViTMSNModel(transformers.ViTMSNConfig(**_PLAIN)),
        source="hugging_face_vit",
        patches_only=_plain(1),
    ),
    "beit_per_layer": Case(
        build=lambda: transformers.BeitForImageClassification(
            transformers.BeitConfig(**_PLAIN, use_relative_position_bias=True)
        ),
        source="hugging_face_beit",
        patches_only=_beit,
        vit={**_NO_POSITIONS, "rel_pos_bias": "per_block"},
        inner="beit",
        final=None,
    ),
    "beit_shared": Case(
        build=lambda: transformers.BeitForMaskedImageModeling(
            transformers.BeitConfig(
                **_PLAIN, use_shared_relative_position_bias=True, use_mask_token=True,
                vocab_size=10,
            )
        ),
        source="hugging_face_beit",
        patches_only=_beit,
        vit={**_NO_POSITIONS, "rel_pos_bias": "shared"},
        inner="beit",
        final=None,
    ),
    "data2vec": Case(
        build=lambda: transformers.Data2VecVisionForImageClassification(
            transformers.Data2VecVisionConfig(**_PLAIN, use_shared_relative_position_bias=True)
        ),
        source="hugging_face_beit",
        patches_only=_data2vec,
        vit={**_NO_POSITIONS, "rel_pos_bias": "shared"},
        inner="data2vec_vision",
        final=None,
    ),
    "dinov2": Case(
        build=lambda: transformers.Dinov2ForImageClassification(
            transformers.Dinov2Config(**_RATIO)
        ),
        source="hugging_face_dinov2",
        patches_only=_plain(1),
        vit={"layer_scale_init": 1.0},
        inner="dinov2",
    ),
    "dinov2_registers": Case(
        build=lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**_RATIO)
        ),
        source="hugging_face_dinov2",
        patches_only=_plain(1),
        vit={"layer_scale_init": 1.0},
    ),
    "dinov2_gated": Case(
        build=lambda: transformers.Dinov2Model(
            transformers.Dinov2Config(**{**_RATIO, "mlp_ratio": 3}, use_swiglu_ffn=True)
        ),
        source="hugging_face_dinov2",
        patches_only=_plain(1),
        # Two thirds of 3 * 24.
        vit={"layer_scale_init": 1.0, "mlp": "swiglu"},
    ),
    "dinov3": Case(
        build=lambda: transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(**{**_PLAIN, "layer_norm_eps": 1e-5})
        ),
        source="hugging_face_dinov3",
        patches_only=_dinov3,
        vit={**_NO_POSITIONS, "rope": "half"},
        final=None,
    ),
    "dinov3_gated": Case(
        build=lambda: transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(
                **{**_PLAIN, "layer_norm_eps": 1e-5}, use_gated_mlp=True, hidden_act="silu",
                num_register_tokens=4,
            )
        ),
        source="hugging_face_dinov3",
        patches_only=_dinov3,
        vit={**_NO_POSITIONS, "rope": "half", "mlp": "swiglu"},
        final=None,
    ),
    "clip_vision": Case(
        build=lambda: transformers.CLIPVisionModel(
            transformers.CLIPVisionConfig(**{**_PLAIN, "layer_norm_eps": 1e-5})
        ),
        source="hugging_face_clip",
        patches_only=_clip,
        vit={"pre_norm": True, "act": "quick_gelu"},
        final=None,
    ),
    "clip_projection": Case(
        build=lambda: transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(
                **{**_PLAIN, "layer_norm_eps": 1e-5}, projection_dim=8
            )
        ),
        source="hugging_face_clip",
        patches_only=_clip,
        vit={"pre_norm": True, "act": "quick_gelu"},
        inner="vision_model",
        final=None,
    ),
    "sam": Case(
        build=lambda: transformers.SamVisionModel(transformers.SamVisionConfig(**_SAM_VISION)),
        source="hugging_face_sam",
        patches_only=_sam,
        vit={**_TABLES, "pretrain_use_cls_token": False},
        inner="vision_encoder",
        final=None,
    ),
    "vitdet": Case(
        build=lambda: transformers.VitDetModel(
            transformers.VitDetConfig(
                **{**_RATIO, "pretrain_image_size": SIDE}, use_relative_position_embeddings=True,
                window_size=3, window_block_indices=[0], residual_block_indices=[1],
            )
        ),
        source="hugging_face_vitdet",
        patches_only=_vitdet,
        vit={**_TABLES, "residual_block_indexes": [1]},
        final=None,
    ),
}  # fmt: skip


@torch.no_grad()
def patch_features(case: Case, model: Any) -> Tensor:
    """What the model's own layers make of the patches alone, ``(h*w, C)``."""
    return case.patches_only(case.encoder(model), IMAGE)[0]

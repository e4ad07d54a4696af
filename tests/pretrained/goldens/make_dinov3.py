# SPDX-License-Identifier: Apache-2.0
"""Goldens of DINOv3: ``python -m tests.pretrained.goldens.make_dinov3 CHECKOUT``.

The checkout is of facebookresearch/dinov3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.pretrained import golden
from tests.pretrained.goldens import official

# As of the released models, but small.
COMMON = {
    "patch_size": 16,
    "embed_dim": 32,
    "num_heads": 2,
    "depth": 2,
    "layerscale_init": 1.0,
    "norm_layer": "layernormbf16",
    "n_storage_tokens": 4,
    "mask_k_bias": True,
    "pos_embed_rope_dtype": "fp32",
}
MODELS: dict[str, dict[str, Any]] = {
    "dinov3": {},
    "dinov3_plus": {"ffn_layer": "swiglu", "ffn_ratio": 6.0},
    "dinov3_7b": {
        "ffn_layer": "swiglu64",
        "ffn_ratio": 3.0,
        "qkv_bias": False,
        "untie_global_and_local_cls_norm": True,
    },
}
HEIGHT, WIDTH = 48, 80


@torch.no_grad()
def patch_only(model: nn.Module, picture: Tensor) -> Tensor:
    """Run the patch tokens alone, with their rotary positions, through all blocks."""
    x = model.patch_embed(picture)
    rope = model.rope_embed(H=x.shape[1], W=x.shape[2])
    x = x.flatten(1, 2)
    for block in model.blocks:
        x = block(x, rope)
    return x


def main() -> None:
    """Write the goldens."""
    folder = official.checkout()
    make = official.load("dinov3.models.vision_transformer").DinoVisionTransformer
    picture = golden.image(HEIGHT, WIDTH)
    for name, options in MODELS.items():
        model = make(**COMMON, **options).eval()
        model.init_weights()  # periods, and the mask of the keys' biases, which is NaN before
        state = golden.fill_model(model)
        with torch.no_grad():
            with_prefix = model.forward_features(picture)["x_prenorm"]
        arguments = ", ".join(f"{key}={value!r}" for key, value in {**COMMON, **options}.items())
        golden.save_golden(
            name,
            made_with={
                "repository": "facebookresearch/dinov3",
                "commit": golden.commit_of(folder),
            },
            how=f"DinoVisionTransformer({arguments}); with_prefix: x_prenorm",
            state=state,
            image_size=(HEIGHT, WIDTH),
            features=patch_only(model, picture),
            with_prefix=with_prefix,
        )


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Goldens of DINOv2: ``python -m tests.pretrained.goldens.make_dinov2 CHECKOUT``.

The checkout is of facebookresearch/dinov2.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from tests.pretrained import golden
from tests.pretrained.goldens import official

COMMON = {"img_size": 56, "patch_size": 14, "embed_dim": 32, "num_heads": 2, "init_values": 1.0}
MODELS: dict[str, dict[str, Any]] = {
    "dinov2": {"depth": 2, "block_chunks": 0},
    # The released models with registers also resize positions in another way than the first.
    "dinov2_registers": {
        "depth": 2,
        "block_chunks": 0,
        "num_register_tokens": 4,
        "interpolate_antialias": True,
        "interpolate_offset": 0.0,
    },
    "dinov2_chunks": {"depth": 4, "block_chunks": 2},
    "dinov2_giant": {"depth": 2, "block_chunks": 0, "ffn_layer": "swiglufused"},
}


@torch.no_grad()
def patch_only(model: nn.Module, picture: Tensor) -> Tensor:
    """Run the patch tokens alone through all blocks, in chunks or not."""
    x = model.patch_embed(picture) + model.pos_embed[:, 1:]
    for block in model.blocks:
        x = block(x)
    return x


def main() -> None:
    """Write the goldens."""
    os.environ["XFORMERS_DISABLED"] = "1"
    folder = official.checkout()
    make = official.load("dinov2.models.vision_transformer").DinoVisionTransformer
    picture = golden.image(56, 56)
    for name, options in MODELS.items():
        model = make(**COMMON, **options).eval()
        state = golden.fill_model(model)
        with torch.no_grad():
            with_prefix = model.forward_features(picture)["x_prenorm"]
        arguments = ", ".join(f"{key}={value!r}" for key, value in {**COMMON, **options}.items())
        golden.save_golden(
            name,
            made_with={
                "repository": "facebookresearch/dinov2",
                "commit": golden.commit_of(folder),
            },
            how=f"DinoVisionTransformer({arguments}); with_prefix: x_prenorm",
            state=state,
            image_size=(56, 56),
            features=patch_only(model, picture),
            with_prefix=with_prefix,
        )


if __name__ == "__main__":
    main()

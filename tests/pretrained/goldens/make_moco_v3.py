# SPDX-License-Identifier: Apache-2.0
"""Golden of MoCo v3: ``python -m tests.pretrained.goldens.make_moco_v3 CHECKOUT`` of moco-v3."""

from __future__ import annotations

from functools import partial

from torch import nn

from tests.pretrained import golden
from tests.pretrained.goldens import official


def main() -> None:
    """Write the golden ``moco_v3``, of the whole training model."""
    folder = official.checkout()
    official.prepare_timm()
    vits, builder = official.load("vits"), official.load("moco.builder")
    made_with = {"repository": "facebookresearch/moco-v3", "commit": golden.commit_of(folder)}
    arguments = {
        "img_size": 48,
        "patch_size": 16,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "qkv_bias": True,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    }
    encoder = partial(vits.VisionTransformerMoCo, **arguments)
    model = builder.MoCo_ViT(encoder, dim=8, mlp_dim=10).eval()
    state = golden.fill_model(model)
    picture = golden.image(48, 48)
    base = model.base_encoder
    golden.save_golden(
        "moco_v3",
        made_with=made_with,
        how="MoCo_ViT(VisionTransformerMoCo(img_size=48, patch_size=16, embed_dim=24, depth=2, "
        "num_heads=3, eps=1e-6), dim=8, mlp_dim=10).base_encoder; with_prefix: forward_features",
        state=state,
        image_size=(48, 48),
        features=official.patch_only(base, picture, 1),
        with_prefix=official.all_tokens(base, partial(base.forward_features, picture)),
    )


if __name__ == "__main__":
    main()
